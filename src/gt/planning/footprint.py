"""How much memory each worker holds for a session, found by the sizes in its instructions alone.

All workers of a mesh hold equally much, since what does not divide is replicated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gt.planning.geometry import item_bytes, view_of
from gt.wire import instructions as wire


@dataclass(frozen=True)
class HeldBytes:
    """Bytes on each worker, by what they are for: at the end of the step, and when they were most in all."""

    at_end: Mapping[str, int]
    at_peak: Mapping[str, int]


def storage_bytes(geometry: wire.Geometry) -> int:
    """The bytes of the storage that a worker makes for a geometry."""
    return view_of(geometry).extent * item_bytes(geometry.dtype)


class Footprint:
    """The living storages of a worker, and how they came and went since the last `begin`. `sizes`: of the mesh's axes."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        self.living: dict[int, int] = {}
        """Bytes, by id on the workers."""
        self.bytes = 0
        self.peak_before = 0
        """The most bytes while nothing was counted."""
        self.counts = False
        """Whether what happens now is part of the step."""
        self._calls: dict[int, tuple[int, ...]] = {}
        self._copied: dict[int, int] = {}
        """Copy -> what it is a copy of."""
        self._at_begin: dict[int, int] = {}
        self._changes: list[tuple[int, int, bool]] = []
        """(Storage, bytes more or less, whether it counts)."""
        self._handlers: dict[type, Callable[[Any], None]] = {
            int: self._free,
            wire.Define: self._define,
            wire.Op: self._op,
            wire.Upload: self._upload,
            wire.LoadFile: self._load_file,
            wire.AllReduce: self._all_reduce,
            wire.ReduceScatter: self._reduce_scatter,
            wire.AllGather: self._all_gather,
            wire.Cut: self._cut,
            wire.Slice: self._slice,
            wire.Once: self._once,
            wire.Coordinate: lambda item: self._put(item.out, 8),
        }

    def begin(self) -> None:
        """A step begins."""
        self._at_begin = dict(self.living)
        self._changes.clear()

    def take(self, item: wire.Instruction) -> None:
        """The workers are sent an instruction."""
        handler = self._handlers.get(type(item))
        if handler is not None:
            handler(item)

    def _put(self, id: int, size: int, source: int = 0) -> None:
        before = self.living.get(id, 0)
        self.living[id] = size
        self._change(id, size - before)
        if source:
            self._copied[id] = source

    def _free(self, id: int) -> None:
        self._change(id, -self.living.pop(id, 0))

    def _change(self, id: int, more: int) -> None:
        self.bytes += more
        self._changes.append((id, more, self.counts))
        if not self.counts:
            self.peak_before = max(self.peak_before, self.bytes)

    # -- what makes and frees storages -------------------------------------------------------------------------------------

    def _define(self, item: wire.Define) -> None:
        self._calls[item.call] = tuple(storage_bytes(g) for g in item.outs if g is not None)

    def _op(self, item: wire.Op) -> None:
        for id, size in zip(item.outs, self._calls.get(item.call, ()), strict=False):
            self._put(id, size)

    def _upload(self, item: wire.Upload) -> None:
        if item.id not in self.living:
            self._put(item.id, storage_bytes(item.geometry))

    def _load_file(self, item: wire.LoadFile) -> None:
        self._put(item.id, storage_bytes(item.geometry) // math.prod(self._sizes[axis] for axis, _ in item.digits))

    def _all_reduce(self, item: wire.AllReduce) -> None:
        for part in item.parts:
            if part.out:
                self._put(part.out, part_bytes(part), part.id)

    def _reduce_scatter(self, item: wire.ReduceScatter) -> None:
        for part in item.parts:
            self._put(part.out or part.id, part_bytes(part) // self._sizes[item.axis], part.out and part.id)

    def _all_gather(self, item: wire.AllGather) -> None:
        for part in item.parts:
            self._put(part.out or part.id, part_bytes(part) * self._sizes[item.axis], part.out and part.id)

    def _cut(self, item: wire.Cut) -> None:
        self._put(item.id, self.living.get(item.id, 0) // self._sizes[item.axis])

    def _slice(self, item: wire.Slice) -> None:
        size = math.prod(item.geometry.size) * item_bytes(item.geometry.dtype)
        self._put(item.out, size // self._sizes[item.axis], item.id)

    def _once(self, item: wire.Once) -> None:
        self._put(item.out, self.living.get(item.id, 0), item.id)

    # -- reading -----------------------------------------------------------------------------------------------------------

    def held(self, kinds: Mapping[int, str]) -> HeldBytes:
        """What was held during the step, by kind; `kinds` are those of storages, by id on the workers."""
        known: dict[int, str] = {}

        def kind(id: int) -> str:
            found = known.get(id)
            if found is None:
                found = known[id] = self._kind(id, kinds)
            return found

        now: Counter[str] = Counter()
        for id, size in self._at_begin.items():
            now[kind(id)] += size
        total = sum(now.values())
        most, at_peak = -1, dict(now)
        for id, more, counts in self._changes:
            now[kind(id)] += more
            total += more
            if counts and total > most:
                most, at_peak = total, dict(now)
        return HeldBytes(dict(now), at_peak)

    def _kind(self, id: int, kinds: Mapping[int, str]) -> str:
        if id in kinds:
            return kinds[id]
        while id in self._copied and id not in kinds:
            id = self._copied[id]
        return GATHERED if kinds.get(id) == PARAMETERS else ACTIVATIONS


PARAMETERS, GRADIENTS, OPTIMIZER, GATHERED, ACTIVATIONS = KINDS = (
    "parameters", "gradients", "optimizer state", "gathered parameters", "activations",
)  # fmt: skip
"""What storages are for. Activations: whatever is none of the others, such as inputs."""


def part_bytes(part: wire.Part) -> int:
    """The bytes of a worker's own storage in a collective."""
    return part.elements * item_bytes(part.dtype)
