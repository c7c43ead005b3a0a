"""Ctrl-C in a destructor, which Python could only report, is raised again; what the destructor left undone is done."""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from typing import Any

from gt.client.stream import operands
from gt.client.stream.interrupts import interrupt_again
from gt.client.stream.segment import recorder

_other_hook = sys.unraisablehook


def _unraisable(
    info: Any,
    other: Any = _other_hook,
    end_of_holder: Any = operands.Holder.__del__,
    at_the_end: Callable[[], bool] = sys.is_finalizing,
) -> None:
    """A Ctrl-C that arrives in a destructor would be lost, since nobody can catch what that raises: it is raised again.

    What it takes at its definition is there when the interpreter ends, which takes the names of modules away.
    """
    of_holder = info.object is end_of_holder
    if info.exc_type is KeyboardInterrupt:
        number = getattr(info.exc_traceback.tb_frame.f_locals["self"], "id", None) if of_holder else None
        if number is not None:
            recorder.segment.append(number)  # perhaps once more: a storage that is gone cannot be freed
        _thread.start_new_thread(interrupt_again, ())
    elif not (of_holder and info.exc_type is AttributeError):  # it came before the holder had its id
        if at_the_end() and "'remote' backend" in str(info.exc_value):
            info.exc_value.args = ("a destructor computes with a remote tensor, and the session ended with the program",)
        other(info)


def install() -> None:
    sys.unraisablehook = _unraisable
