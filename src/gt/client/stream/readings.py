"""Elements that a program reads one by one: a small storage that is read again is fetched whole, and kept while it holds.

`[v.item() for v in x]` would wait for a worker once for each element. What was fetched holds until an instruction that may
write the storage is recorded, by whichever view: at a look-up, and before they are sent, all new instructions are gone
through. That costs nothing where nothing is kept. See docs/decisions/031-small-tensors-read-twice.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from gt.client.stream.definitions import definitions
from gt.client.stream.segment import recorder
from gt.wire import instructions as wire

PER_READ_BYTES = 1 << 15
"""What each read adds to the size that is fetched whole: the bytes that take about as long as the read of one element, so
that the whole costs at most what the reads before it have cost."""
MOST_BYTES = 1 << 20
"""Larger storages are never fetched whole."""
MOST_KEPT = 16
MOST_COUNTED = 1 << 12
MOST_UNUSED = 1 << 13
"""Instructions after which what was not read again is dropped: none has to be looked for through a whole training."""
HARMLESS = (wire.Define, wire.Forget, wire.Fetch, wire.Scope, wire.SaveFile, wire.Seed, wire.GetRandomState,
            wire.SetRandomState, wire.Synchronize, wire.Stats, *wire.MARKS)  # fmt: skip
"""Instructions that write no storage. Those that are neither here nor in `Readings._pass` drop everything."""


class Readings:
    """Which storages are read, and the elements of some. To be used under the recorder's lock."""

    def __init__(self) -> None:
        self._reads: dict[int, int] = {}
        """Storage -> how often it was read since it was last kept."""
        self._kept: dict[int, torch.Tensor | object] = {}
        """Storage -> its elements, a flat CPU tensor; something else while they are being fetched. What was used last stands
        last."""
        self._passed = 0
        """How many instructions of the segment were gone through."""
        self._unused = 0
        """How many were gone through since something that is kept was read."""

    def find(self, number: int, size_bytes: int) -> torch.Tensor | None:
        """The elements of a storage, if its first `size_bytes` bytes are kept."""
        if not self._kept:
            return None
        self._go_through(recorder.segment)
        found = self._kept.pop(number, None)
        if not isinstance(found, torch.Tensor) or found.nbytes < size_bytes:
            return None
        self._kept[number] = found
        self._unused = 0
        return found

    def is_worth_fetching(self, number: int, size_bytes: int) -> bool:
        """Count a read of a storage that is not kept. Returns whether all of it, `size_bytes`, is to be fetched and kept."""
        if len(self._reads) >= MOST_COUNTED:
            self._reads.clear()
        reads = self._reads[number] = self._reads.get(number, 0) + 1
        return reads > 1 and size_bytes <= min(reads * PER_READ_BYTES, MOST_BYTES)

    def expect(self, number: int) -> object:
        """Called before a request for all of a storage is recorded; returns what `keep` wants to be given."""
        self._go_through(recorder.segment)
        self._kept.pop(number, None)
        while len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._unused = 0
        expected = self._kept[number] = object()
        return expected

    def keep(self, number: int, expected: object, elements: torch.Tensor | None) -> None:
        """Keep what has arrived (None: nothing has), unless the storage was written since the request."""
        if self._kept.get(number) is expected:
            del self._kept[number]
            if elements is not None:
                self._kept[number] = elements
                self._reads.pop(number, None)

    def note_sent(self, items: list[wire.Instruction]) -> None:
        """The segment's first instructions have been sent, and are about to be removed from it."""
        if self._kept:
            self._go_through(items)
        self._passed = max(0, self._passed - len(items))

    def forget(self) -> None:
        """The segment was changed, or the session's tensors are gone."""
        self._kept.clear()
        self._passed = 0

    def _go_through(self, segment: list[wire.Instruction]) -> None:
        new = segment[self._passed :]
        self._passed += len(new)
        self._unused += len(new)
        if self._unused > MOST_UNUSED:
            self._kept.clear()
        for item in new if self._kept else ():
            self._pass(item)

    def _pass(self, item: wire.Instruction) -> None:
        """Drop what an instruction may write."""
        if type(item) is int:
            self._drop((item,))
        elif type(item) is wire.Op:
            if not self._kept.keys().isdisjoint(item.args) and definitions.may_write(item.call):
                self._drop(item.args)
        elif isinstance(item, (wire.Upload, wire.LoadFile)):
            self._drop((item.id,))
        elif isinstance(item, wire.Query):
            self._drop(number for number, _ in item.ins)
        elif not isinstance(item, HARMLESS):
            self._kept.clear()

    def _drop(self, numbers: Iterable[object]) -> None:
        for number in numbers:
            self._kept.pop(number, None)  # type: ignore[call-overload]


readings = Readings()
