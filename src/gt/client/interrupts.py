"""Ctrl-C: what it must not cut in half, and what must not swallow it.

Python raises KeyboardInterrupt between any two bytecodes of the main thread. A message that is half sent, or taken from the
socket and not yet looked at, would leave the session out of step with the dispatcher; and PyTorch's autograd engine aborts
the process where Python raises while C++ calls it from a destructor. Both are held back from it. Waiting
never is.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps, at a tenth of its cost
import _thread
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, ClassVar

from gt.client import record

HELD = (int(signal.SIGINT), int(signal.SIGALRM))
"""Ctrl-C, and the alarm with which programs limit how long something may take."""
_main = threading.main_thread().ident


class HeldBack:
    """`with HeldBack():` signals whose handlers may raise are handled at its end. Does nothing on other threads."""

    __slots__ = ("_arrived", "_handlers", "_outer")
    innermost: ClassVar[HeldBack | None] = None

    def __enter__(self) -> None:
        self._arrived: list[int] = []
        self._handlers: list[tuple[int, Any]] = []
        if threading.get_ident() == _main:
            self._outer = HeldBack.innermost
            HeldBack.innermost = self
            self.hold()

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() == _main:
            HeldBack.innermost = self._outer
            self.let_through()

    def hold(self) -> None:
        for number in HELD:
            handler = _signal.getsignal(number)
            if callable(handler):
                self._handlers.append((number, handler))
                _signal.signal(number, self._note)

    def let_through(self) -> None:
        handlers, self._handlers = self._handlers, []
        for number, handler in handlers:
            _signal.signal(number, handler)
        arrived, self._arrived = self._arrived, []
        for number in arrived:
            signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append(number)


class LetThrough:
    """`with LetThrough():` inside a `HeldBack`: here an exception can be borne, and it may take long."""

    __slots__ = ("_held",)

    def __enter__(self) -> None:
        self._held = HeldBack.innermost if threading.get_ident() == _main else None
        if self._held is not None:
            self._held.let_through()

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.hold()


_other_hook = sys.unraisablehook


def _unraisable(info: Any) -> None:
    """A Ctrl-C that arrives in a destructor would be lost, since nobody can catch what that raises: it is raised again."""
    of_holder = info.object is record.Holder.__del__
    if info.exc_type is KeyboardInterrupt:
        number = getattr(info.exc_traceback.tb_frame.f_locals["self"], "id", None) if of_holder else None
        if number is not None:
            record.segment.append(number)  # perhaps once more: a storage that is gone cannot be freed
        _thread.start_new_thread(_interrupt_again, ())
    elif not (of_holder and info.exc_type is AttributeError):  # it came before the holder had its id
        _other_hook(info)


def _interrupt_again() -> None:
    time.sleep(0.001)  # the main thread leaves the hook, from where it could not raise either
    _thread.interrupt_main()


def install() -> None:
    sys.unraisablehook = _unraisable
