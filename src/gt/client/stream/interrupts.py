"""Ctrl-C: what it must not cut in half, and what must not swallow it.

Python raises KeyboardInterrupt between any two bytecodes of the main thread. A message that is half sent, or taken from the
socket and not yet looked at, would leave the session out of step with the dispatcher; and C++ aborts the process where
Python raises and it may not: in destructors of autograd's engine, and in a device's guard wherever PyTorch asks it. All
three are held back from it. Waiting never is. docs/decisions/007-interrupts.md.
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
"""Signals for which programs have handlers of their own, which may raise and may use the session: Ctrl-C, the alarm that
limits how long something takes, the one that says: save what you have."""
_main = threading.main_thread().ident


class HeldBack:
    """`with HeldBack():` signals that have handlers are handled at its end. Does nothing on other threads."""

    __slots__ = ("_arrived", "_handlers", "_holds", "_leaves", "_outer")
    innermost: ClassVar[HeldBack | None] = None

    def __enter__(self) -> None:
        if threading.get_ident() == _main:
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
        if threading.get_ident() == _main:
            self._leaves = True
            try:
                self.let_through()
            finally:
                HeldBack.innermost = self._outer

    def hold(self) -> None:
        found = [*map(_signal.getsignal, HELD)]
        for number, handler in zip(HELD, found, strict=True) if found != _USUAL else ():
            if handler is signal.default_int_handler:
                _signal.signal(number, _interrupt)
            elif handler is not _interrupt and callable(handler):
                self._handlers.append((number, handler))
                _signal.signal(number, self._note)
        self._holds = True

    def let_through(self) -> None:
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
        """Whether a signal is held back now."""
        held = cls.innermost
        while held is not None and not held._holds:
            held = held._outer
        if held is not None:
            held._arrived.append(number)
        return held is not None


class LetThrough:
    """`with LetThrough():` inside a `HeldBack`: here an exception can be borne, and it may take long."""

    __slots__ = ("_held",)

    def __enter__(self) -> None:
        held = HeldBack.innermost if threading.get_ident() == _main else None
        # where it does not hold, or no longer, it is a handler that waits, which was let through
        self._held = held if held is not None and held._holds and not held._leaves else None
        if self._held is not None:
            self._held.let_through()

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.hold()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C where a program has none of its own: Python's, which waits until it may raise."""
    if HeldBack.takes(number):
        return
    if _is_asked_by_torch():
        _thread.start_new_thread(interrupt_again, ())
        return
    signal.default_int_handler(number, frame)


_USUAL = [_interrupt if number == signal.SIGINT else _signal.SIG_DFL for number in HELD]
"""The handlers in a program that has none of its own."""


def _is_asked_by_torch() -> bool:
    """Whether PyTorch's C++ looks up a method of a Python object just now, as it does of a device's guard."""
    return any("(PyObject_Str+" in callee and "libtorch_python" in caller for callee, caller in pairwise(_native_stack()))


def _native_stack(depth: int = 64) -> list[str]:
    """The C functions that are being called, innermost first, each as `library(symbol+offset) [address]`."""
    libc = ctypes.CDLL(None)
    libc.backtrace_symbols.restype = ctypes.POINTER(ctypes.c_char_p)
    addresses = (ctypes.c_void_p * depth)()
    found = libc.backtrace(addresses, depth)
    return [(line or b"").decode(errors="replace") for line in libc.backtrace_symbols(addresses, found)[:found]]


def interrupt_again() -> None:
    time.sleep(0.001)  # the main thread leaves the hook, from where it could not raise either
    _thread.interrupt_main()


def install() -> None:
    """Take the place of Python's own handler."""
    with HeldBack():
        pass
