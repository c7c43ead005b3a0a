"""Errors that users can fix, and Ctrl-C, end a script with one line instead of a traceback. No script outlives train.sh.

Scripts import this first, so that it also applies during the other imports.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import TracebackType


class UserError(Exception):
    """An error that the user can fix. The message names the file, the row or the name."""


def read_json(path: Path) -> dict[str, object]:
    """Read the object in a JSON file. Raises UserError or FileNotFoundError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object")
    return found


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    elif isinstance(error, OSError) and error.filename:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
    elif isinstance(error, (UserError, OSError, *_of_workers())):
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _of_workers() -> tuple[type[Exception], ...]:
    """What happens to GT's workers, and what is wrong in its settings; losing the connection is an OSError."""
    errors = sys.modules.get("gt.errors")
    return (errors.WorkerLostError, errors.StartError, errors.ConfigError) if errors else ()


PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _end_with(shell: int) -> None:
    """Have the kernel end this process when the shell that started it ends. Training writes a checkpoint first."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != shell:  # it ended before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)


def outlive_shell() -> None:
    """From now on the shell's end sends this process no SIGTERM. One that is under way has arrived when this returns."""
    if _shell:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
        if os.getppid() != _shell:
            time.sleep(0.1)


sys.excepthook = _in_one_line
_shell = int(os.environ.pop("TRAIN_SH", "0")) if sys.platform == "linux" else 0
"""The process id of train.sh; 0: it did not start this script. Children of this process do not end with it."""
if _shell:
    _end_with(_shell)
