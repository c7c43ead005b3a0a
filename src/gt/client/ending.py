"""The end of a program: threads that go on leave at their next operation. Python would end them in the midst of C++."""

from __future__ import annotations

import sys
import threading
import time

GRACE_S = 0.05
"""How long a program that ends waits for the threads that nobody waits for to come to their next operation."""
END_S = 10.0
"""How long for one that is in the midst of an operation, which may be loading parts of PyTorch."""


class End:
    """The program's. What is left of it then are threads that nobody waits for, and destructors."""

    reached = False


def leave() -> None:
    """What an operation does first on a thread that has outlived the program."""
    if End.reached and threading.current_thread() is not threading.main_thread():
        raise SystemExit  # which ends a thread, and nothing is said of it


def wait_for_threads(own: threading.Thread | None) -> None:
    """Give daemon threads the time to leave. `own` is GT's, which never leaves."""
    began = time.monotonic()
    for thread in threading.enumerate():
        if thread.daemon and thread is not own:
            while thread.is_alive() and time.monotonic() - began < (END_S if _is_inside(thread) else GRACE_S):
                thread.join(GRACE_S / 5)


def _is_inside(thread: threading.Thread) -> bool:
    """Whether a thread runs code of this package."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("gt."):
        frame = frame.f_back
    return frame is not None
