"""Ctrl-C: what it must not interrupt, and what must not swallow it.

Python raises KeyboardInterrupt between any two bytecodes of the main thread. A message that is half sent, or was received
and not yet handled, would leave the session out of step with the dispatcher. And C++ aborts the process when Python raises
where it must not: in destructors of autograd's engine, and in a device's guard wherever PyTorch consults it. In all three
places Ctrl-C is held back; waiting is always interrupted. See docs/decisions/007-interrupts.md.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps, at a tenth of its cost
import _thread
import ctypes
import signal
import threading
import time
from itertools import pairwise
from types import FrameType
from typing import Any, ClassVar

_NAMES = ("INT", "ALRM", "TERM", "HUP", "QUIT", "USR1", "USR2", "CHLD", "VTALRM", "PROF", "WINCH", "CONT", "TSTP", "IO")
HELD = tuple(int(getattr(signal, f"SIG{name}")) for name in _NAMES)
"""Signals that programs handle, in handlers that may raise and may use the session: Ctrl-C, an alarm that limits a
duration, a scheduler's request to save a checkpoint."""


class HeldBack:
    """`with HeldBack():` delays the handlers of signals until its end. Does nothing off the main thread."""

    __slots__ = ("_arrived", "_handlers", "_holds", "_leaves", "_outer")
    innermost: ClassVar[HeldBack | None] = None
    main: ClassVar[int | None] = threading.main_thread().ident
    """The thread in which Python runs handlers."""

    def __enter__(self) -> None:
        if threading.get_ident() == HeldBack.main:
            self._arrived: list[int] = []
            self._handlers: list[tuple[int, Any]] = []
            self._outer = HeldBack.innermost
            self._leaves = False
            try:
                self.hold()
            except BaseException:
                self.let_through()
                raise
            HeldBack.innermost = self

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() == HeldBack.main:
            self._leaves = True
            try:
                self.let_through()
            finally:
                HeldBack.innermost = self._outer

    def hold(self) -> None:
        """Replace the program's handlers by ones that note a signal."""
        found = [*map(_signal.getsignal, HELD)]
        for number, handler in zip(HELD, found, strict=True) if found != _USUAL else ():
            if handler is signal.default_int_handler:
                _signal.signal(number, _interrupt)
            elif handler is not _interrupt and callable(handler):
                self._handlers.append((number, handler))
                _signal.signal(number, self._note)
        self._holds = True

    def let_through(self) -> None:
        """Restore the handlers, and raise the noted signals again."""
        if self._handlers:
            handlers, self._handlers = self._handlers, []
            for number, handler in handlers:
                _signal.signal(number, handler)
        self._holds = False
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            for number in arrived:
                signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append(number)

    @classmethod
    def takes(cls, number: int) -> bool:
        """Note a signal if it is held back now; returns whether it is."""
        held = cls.innermost
        while held is not None and not held._holds:
            held = held._outer
        if held is not None:
            held._arrived.append(number)
        return held is not None


class LetThrough:
    """`with LetThrough():` inside a `HeldBack` lets signals through, around code that may take long and may be
    interrupted."""

    __slots__ = ("_held",)

    def __enter__(self) -> None:
        held = HeldBack.innermost if threading.get_ident() == HeldBack.main else None
        # where it does not hold, or no longer, it is a handler that waits, which was let through
        self._held = held if held is not None and held._holds and not held._leaves else None
        if self._held is not None:
            self._held.let_through()

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.hold()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C in a program without one of its own: Python's, delayed until it may raise."""
    if HeldBack.takes(number):
        return
    if _is_asked_by_torch():
        _thread.start_new_thread(interrupt_again, ())
        return
    signal.default_int_handler(number, frame)


_USUAL = [_interrupt if number == signal.SIGINT else _signal.SIG_DFL for number in HELD]
"""The handlers of a program that installs none."""


def _is_asked_by_torch() -> bool:
    """Whether PyTorch's C++ is looking up a method of a Python object, as it does for a device's guard."""
    return any("(PyObject_Str+" in callee and "libtorch_python" in caller for callee, caller in pairwise(_native_stack()))


def _native_stack(depth: int = 64) -> list[str]:
    """The C functions that are being called, innermost first, each as `library(symbol+offset) [address]`."""
    libc = ctypes.CDLL(None)
    libc.backtrace_symbols.restype = ctypes.POINTER(ctypes.c_char_p)
    addresses = (ctypes.c_void_p * depth)()
    found = libc.backtrace(addresses, depth)
    return [(line or b"").decode(errors="replace") for line in libc.backtrace_symbols(addresses, found)[:found]]


def interrupt_again() -> None:
    """On another thread: interrupt the main thread a moment later."""
    time.sleep(0.001)  # the main thread leaves the hook, from where it could not raise either
    _thread.interrupt_main()


def after_fork() -> None:
    """In a forked child the thread that forked is the main one, whichever it was in the parent."""
    HeldBack.main = threading.get_ident()


def install() -> None:
    """Replace Python's own handler."""
    with HeldBack():
        pass
