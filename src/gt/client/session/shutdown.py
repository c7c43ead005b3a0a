"""The end of a program: the session ends last, after all handlers and finalizers that may use tensors.

Threads that are still running then leave at their next operation; Python would end them in the middle of C++ code.
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
"""How long an ending program waits for daemon threads to reach their next operation."""
END_S = 10.0
"""The same for a thread that is inside an operation, which may be importing parts of PyTorch."""


program_ended = threading.Event()
"""Set when the session has ended with the program. After that only daemon threads and destructors run."""


class Last:
    """`Last(action)` does `action` after Python has called all handlers of `atexit`, including those registered before.

    Python calls handlers last in, first out, and lets go of them only when it has called them all. So the action is done
    not when this object is called but when it dies after that. A program that clears its handlers has not ended.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._called = False
        self._kernels: list[weakref.finalize[[], Any]] = []
        atexit.register(self)

    def __call__(self) -> None:
        """Called among the handlers of `atexit`: only notes that the end has begun."""
        self._called = True
        self._kernels = keep_kernels()

    def __del__(self) -> None:
        if (
            not self._called and not threading.main_thread().is_alive()
        ):  # registered by a handler: too late to be called itself
            self()
        if self._called:
            self._action()
            take_back(self._kernels)


def keep_kernels() -> list[weakref.finalize[[], Any]]:
    """Keep kernels that Python code registered: `weakref` would remove them before handlers that may still compute."""
    finalizers = [*getattr(weakref.finalize, "_registry", ())]
    kept = [f for f in finalizers if (found := f.peek()) and isinstance(found[0], torch.library.Library)]
    for finalizer in kept:
        finalizer.atexit = False
    return kept


def take_back(kernels: list[weakref.finalize[[], Any]]) -> None:
    """Remove the kernels that `keep_kernels` kept."""
    for finalizer in reversed(kernels):
        if found := finalizer.detach():
            _, function, arguments, named = found
            function(*arguments, **named)


def leave() -> None:
    """Called first by every operation: ends a thread that has outlived the program."""
    if program_ended.is_set() and threading.current_thread() is not threading.main_thread():
        raise SystemExit  # ends the thread silently


def wait_for_threads(own: threading.Thread | None) -> None:
    """Give daemon threads time to leave. `own` is GT's, which never does."""
    began = time.monotonic()
    for thread in threading.enumerate():
        if thread.daemon and thread is not own:
            while thread.is_alive() and time.monotonic() - began < (END_S if _is_inside(thread) else GRACE_S):
                thread.join(GRACE_S / 5)


def _is_inside(thread: threading.Thread) -> bool:
    """Whether a thread is running code of this package."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("gt."):
        frame = frame.f_back
    return frame is not None
