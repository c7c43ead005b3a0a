"""The calls that the worker knows by number, and the caches of the kernels that find them."""

from __future__ import annotations

import itertools
from typing import Any

from gt.client.stream.segment import recorder
from gt.wire import instructions as wire

LIMIT = 1 << 16
"""Definitions that one session keeps; beyond it all are forgotten and made again when needed."""


class Definitions:
    """What is defined for the worker of this process's session, and what was learnt of calls with it."""

    def __init__(self) -> None:
        self._new_number = itertools.count(1).__next__
        self._caches: list[dict[Any, Any]] = []
        self._known: dict[int, tuple[str, int]] = {}
        """Number -> the call's operator and how many operands it takes."""

    def new_cache(self) -> dict[Any, Any]:
        """A dict that is emptied when the definitions are forgotten: for calls, by what identifies them."""
        cache: dict[Any, Any] = {}
        self._caches.append(cache)
        return cache

    def add(self, op: str, operands: int) -> int:
        """The number of a call that is about to be defined."""
        if len(self._known) >= LIMIT:
            self.forget()
        number = self._new_number()
        self._known[number] = op, operands
        return number

    def forget(self) -> None:
        """Forget every definition: the table is full, the worker is another one, or the default dtype changed."""
        with recorder.lock:
            for cache in self._caches:
                cache.clear()
            if self._known:
                recorder.segment.append(wire.Forget(list(self._known)))
                self._known.clear()

    def described(self, number: int) -> tuple[str, int]:
        """A defined call's operator and how many operands it takes; `call N` and 0 where it was forgotten since."""
        return self._known.get(number, (f"call {number}", 0))


definitions = Definitions()
