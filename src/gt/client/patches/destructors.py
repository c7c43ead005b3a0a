"""Ctrl-C in a destructor, which Python could only report, is raised again; what the destructor left undone is done."""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from typing import Any

from gt.client.stream import operands
from gt.client.stream.interrupts import interrupt_again
from gt.client.stream.segment import recorder


def raising_again(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A Ctrl-C that arrives in a destructor would be lost, since nobody can catch what that raises: it is raised again.

    Whatever the hook needs is bound here: when the interpreter ends, the names of modules go first.
    """
    end_of_holder, is_finalizing, start_thread = operands.Holder.__del__, sys.is_finalizing, _thread.start_new_thread
    recording, interrupt = recorder, interrupt_again

    def unraisable(info: Any) -> None:
        of_holder = info.object is end_of_holder
        if info.exc_type is KeyboardInterrupt:
            number = getattr(info.exc_traceback.tb_frame.f_locals["self"], "id", None) if of_holder else None
            if number is not None:
                recording.segment.append(number)  # perhaps once more: a storage that is gone cannot be freed
            start_thread(interrupt, ())
        elif not (of_holder and info.exc_type is AttributeError):  # it came before the holder had its id
            if is_finalizing() and "'remote' backend" in str(info.exc_value):
                info.exc_value.args = ("a destructor computes with a remote tensor, and the session ended with the program",)
            original(info)

    return unraisable
