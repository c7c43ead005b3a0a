"""Ctrl-C in a destructor, which Python could only report, is raised again, and the destructor's work is completed."""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from typing import Any

from gt.client.stream import operands
from gt.client.stream.interrupts import interrupt_again
from gt.client.stream.segment import recorder


def raising_again(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Nobody can catch an exception of a destructor, so a Ctrl-C that arrives in one would be lost: it is raised again.

    All that the hook needs is bound here, since the names in modules vanish first when the interpreter ends.
    """
    end_of_holder, is_finalizing, start_thread = operands.Holder.__del__, sys.is_finalizing, _thread.start_new_thread
    recording, interrupt = recorder, interrupt_again

    def unraisable(info: Any) -> None:
        of_holder = info.object is end_of_holder
        if info.exc_type is KeyboardInterrupt:
            number = getattr(info.exc_traceback.tb_frame.f_locals["self"], "id", None) if of_holder else None
            if number is not None:
                recording.segment.append(number)  # perhaps a second time, which does nothing
            start_thread(interrupt, ())
        elif not (of_holder and info.exc_type is AttributeError):  # it arrived before the holder had its id
            if is_finalizing() and "'remote' backend" in str(info.exc_value):
                info.exc_value.args = ("a destructor computes with a remote tensor, and the session ended with the program",)
            original(info)

    return unraisable
