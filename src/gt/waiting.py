"""Waiting in which a signal's handler runs, and may raise.

Elsewhere in GT handlers are put off (docs/decisions/007-interrupts.md), so whatever may take long waits here.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from types import CodeType
from typing import Protocol, TypeVar

Function = TypeVar("Function", bound=Callable[..., object])
interruptible_code: set[CodeType] = set()
"""The code of the functions in which handlers run."""


class HasFile(Protocol):
    """A socket or a file."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


def interruptible(function: Function) -> Function:
    """A decorator: handlers run where this function itself, and what it calls in C, stands. It may be left anywhere."""
    interruptible_code.add(function.__code__)  # type: ignore[attr-defined]
    return function


@interruptible
def sleep(seconds: float) -> None:
    """Wait; after 0 seconds handlers that were put off have run."""
    time.sleep(seconds)


@interruptible
def readable(file: HasFile, seconds: float) -> bool:
    """Wait until there is something to read, or the other end is gone; False after `seconds`."""
    poll = select.poll()  # a new one each time: a handler may wait inside this wait
    poll.register(file, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
