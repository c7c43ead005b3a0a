"""What a user can mend ends a script with one line instead of a traceback; so does Ctrl-C. And no script outlives train.sh.

Scripts import this first, so that it holds while the rest is being imported.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from types import TracebackType


class UserError(Exception):
    """Something that the user can mend. The message names the file, the row or the name."""


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file. Raises UserError or FileNotFoundError."""
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
    elif isinstance(error, (UserError, OSError)):
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _end_with(shell: int) -> None:
    """The kernel kills this process when the shell that started it is gone, however that ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != shell:  # it was gone before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


sys.excepthook = _in_one_line
if sys.platform == "linux" and (_shell := os.environ.pop("TRAIN_SH", "")):  # its process id; not for children of this one
    _end_with(int(_shell))
