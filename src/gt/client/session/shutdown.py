"""The end of a program: the session ends last, when all handlers and finalizers that may use tensors have been called.

Threads that go on then leave at their next operation: Python would end them in the midst of C++.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch

GRACE_S = 0.05
"""How long a program that ends waits for the threads that nobody waits for to come to their next operation."""
END_S = 10.0
"""How long for one that is in the midst of an operation, which may be loading parts of PyTorch."""


program_ended = threading.Event()
"""Set when the session has ended with the program. What is left then are threads that nobody waits for, and destructors."""


class Last:
    """`Last(action)` does `action` when Python has called all handlers of `atexit`, those too that came before this one.

    Python calls them last in, first out. Only when it has called all does it let go of them: so not the call counts, but the
    end of what was called. A program that clears its handlers has not ended.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._called = False
        self._kernels: list[weakref.finalize[[], Any]] = []
        atexit.register(self)

    def __call__(self) -> None:
        self._called = True
        self._kernels = keep_kernels()

    def __del__(self) -> None:
        if not self._called and not threading.main_thread().is_alive():  # registered by a handler, too late to be called
            self()
        if self._called:
            self._action()
            take_back(self._kernels)


def keep_kernels() -> list[weakref.finalize[[], Any]]:
    """Kernels that Python code registered stay for now: `weakref` would take them back before handlers that may compute."""
    finalizers = [*getattr(weakref.finalize, "_registry", ())]
    kept = [f for f in finalizers if (found := f.peek()) and isinstance(found[0], torch.library.Library)]
    for finalizer in kept:
        finalizer.atexit = False
    return kept


def take_back(kernels: list[weakref.finalize[[], Any]]) -> None:
    for finalizer in reversed(kernels):
        if found := finalizer.detach():
            _, function, arguments, named = found
            function(*arguments, **named)


def leave() -> None:
    """What an operation does first on a thread that has outlived the program."""
    if program_ended.is_set() and threading.current_thread() is not threading.main_thread():
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
