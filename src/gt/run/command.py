"""`gt run`: becomes `python SCRIPT`, with an environment in which every Python process installs the import hook."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from gt.config import read
from gt.errors import ConfigError

STARTUP = str(Path(__file__).parent / "startup")


def run(command: Sequence[str], workers: int | None) -> NoReturn:
    """Replace this process by Python with these arguments. `workers`: of the embedded service.

    Raises ConfigError for a wrong setting, OSError if Python cannot be started.
    """
    if command[0].startswith("-") and command[0] != "-" and command[0][:2] not in ("-m", "-c"):
        raise ConfigError(
            f"run: {command[0]}: expected a script, -m MODULE or -c CODE; Python's other options have variables"
        )
    environment = prepared(os.environ, workers)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *command], environment)  # noqa: S606 - the user's program


def prepared(environment: Mapping[str, str], workers: int | None) -> dict[str, str]:
    """The environment of the program."""
    given, _ = read(environment)
    made = dict(environment)
    if workers is not None:
        if given.address:
            raise ConfigError(
                f"--workers starts workers, and the service that GT_ADDRESS names ({given.address}) has its own"
            )
        made["GT_WORKERS"] = str(workers)
    path = environment.get("PYTHONPATH", "")
    others = [entry for entry in path.split(os.pathsep) if entry != STARTUP] if path else []
    return {**made, "GT_RUN": sys.prefix, "PYTHONPATH": os.pathsep.join([STARTUP, *others])}
