"""The calls that the worker knows by number, and the caches of the kernels that find them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from gt.client.stream.segment import recorder
from gt.wire import instructions as wire

LIMIT = 1 << 16
"""The most definitions that a session keeps; beyond it all are forgotten, and made again when needed."""


class Definitions:
    """The calls defined for the worker of this process's session, and the caches of what was learnt about them."""

    def __init__(self) -> None:
        self._new_number = itertools.count(1).__next__
        self._caches: list[dict[Any, Any]] = []
        self._known: dict[int, tuple[str, int, tuple[int, ...] | None]] = {}
        """Number -> the call's operator, how many operands it takes, and which of them it writes (None: maybe any)."""

    def new_cache(self) -> dict[Any, Any]:
        """A dict, for calls by their keys, that is emptied when the definitions are forgotten."""
        cache: dict[Any, Any] = {}
        self._caches.append(cache)
        return cache

    def add(self, op: str, operands: int, writes: tuple[int, ...] | None) -> int:
        """The number of a call that is about to be defined. `writes`: the operands that it writes; None: maybe any."""
        if len(self._known) >= LIMIT:
            self.forget()
        number = self._new_number()
        self._known[number] = op, operands, writes
        return number

    def forget(self) -> None:
        """Forget every definition: the table is full, the worker has changed, or the default dtype has."""
        with recorder.lock:
            for cache in self._caches:
                cache.clear()
            if self._known:
                recorder.segment.append(wire.Forget(list(self._known)))
                self._known.clear()

    def described(self, number: int) -> tuple[str, int]:
        """A defined call's operator and its number of operands; `call N` and 0 if it has been forgotten since."""
        op, operands, _ = self._known.get(number, (f"call {number}", 0, None))
        return op, operands

    def written(self, number: int) -> Sequence[int]:
        """The operands, by index, that a defined call may write."""
        _, operands, writes = self._known[number]
        return range(operands) if writes is None else writes

    def may_write(self, number: int) -> bool:
        """Whether a call may write one of its operands. So may one that has been forgotten since."""
        return number not in self._known or self._known[number][2] != ()


definitions = Definitions()
