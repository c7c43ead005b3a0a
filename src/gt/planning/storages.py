"""The storages of a session: where each is, and the instructions that move it.

What moves is a storage, so every view of it sees that: a Partial is reduced once and stays so, and a write through a view
that had to be gathered is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gt.placement.digit import OfStorage, Partial, digits, local_elements, local_weight, on_axis
from gt.placement.mesh import Mesh
from gt.planning.geometry import item_bytes, view_of
from gt.planning.state import State, States, Stored
from gt.wire import instructions as wire

FIRST_ID = 1 << 50
"""The ids of storages that the planner makes start here, far above those of any client."""
UNKNOWN = -1
"""The elements of a storage of which nobody has said how large it is; it stays replicated."""
BUCKET_BYTES = 25 << 20
"""Gradients are reduced together up to this many bytes, as in DistributedDataParallel."""


class Storages:
    """The storages of one session, by their ids in the client's program.

    `out`: the instructions for the workers. `forget`: is told of a storage whose copies have been dropped.
    """

    def __init__(self, mesh: Mesh, out: list[wire.Instruction], forget: Callable[[Stored], None]) -> None:
        self.mesh = mesh
        self.out = out
        self.states = States()
        self.by_id: dict[int, Stored] = {}
        self.whole: OfStorage = (None,) * len(mesh.sizes)
        self.shared_axes = [axis for axis, size in enumerate(mesh.sizes) if size > 1]
        self.have_renamed = False
        """Whether some storage has been made anew, so that the workers know it by another id than the client."""
        self._forget = forget
        self.last_id = FIRST_ID
        """The last id that was made here."""

    def new_id(self) -> int:
        """An id for a storage that only the workers know."""
        self.last_id += 1
        return self.last_id

    def find(self, id: int, geometry: wire.Geometry) -> Stored:
        """A storage. One that was not met before is replicated; the view that is met of it does not tell how large it is."""
        stored = self.by_id.get(id)
        if stored is None:
            stored = self.add(id, geometry)
            self.set(stored, elements=UNKNOWN)
        return stored

    def add(self, id: int, geometry: wire.Geometry, placed: OfStorage | None = None) -> Stored:
        """A new storage, replicated unless `placed` says otherwise."""
        state = State(placed or self.whole, view_of(geometry).extent, geometry.dtype)
        stored = self.by_id[id] = Stored(id, self.states.number(state))
        return stored

    def state(self, stored: Stored) -> State:
        """What plans depend on."""
        return self.states[stored.state]

    def set(self, stored: Stored, **changes: Any) -> None:
        """Change the state of a storage."""
        stored.state = self.states.number(self.states[stored.state]._replace(**changes))

    def place(self, stored: Stored, axis: int, placed: int | Partial | None) -> None:
        """Note where a storage is along an axis."""
        self.set(stored, placed=on_axis(self.states[stored.state].placed, axis, placed))

    def can_be_placed(self, stored: Stored, placed: OfStorage) -> bool:
        """Whether every worker can have an equal share of it, by these digits."""
        elements = self.states[stored.state].elements
        return not any(elements % (weight * self.mesh.sizes[axis]) for weight, axis in digits(placed))

    def part(self, stored: Stored, id: int, weight: int = 0, out: int = 0, placed: OfStorage | None = None) -> wire.Part:
        """What a worker holds of a storage under `id`, as a collective names it."""
        state = self.states[stored.state]
        elements = local_elements(state.elements, placed or state.placed, self.mesh.sizes)
        return wire.Part(id, elements, state.dtype, weight, out)

    def drop_copies(self, stored: Stored) -> None:
        """Free what has been made of a storage: it is written, moved or freed."""
        if stored.copies is not None:
            self.out.extend(stored.copies.values())
            stored.copies = None
            self._forget(stored)

    def cut(self, stored: Stored, axis: int, weight: int) -> None:
        """From replicated to sharded: every worker keeps its part."""
        self.place(stored, axis, weight)
        placed = self.states[stored.state].placed
        self.out.append(wire.Cut(axis, stored.id, local_weight(placed, self.mesh.sizes, axis)))

    def reduce(self, storages: Sequence[Stored], axis: int) -> None:
        """Reduce Partials along an axis where they are."""
        kinds: dict[Partial, dict[int, wire.Part]] = {}
        for stored in storages:
            kind = self.states[stored.state].placed[axis]
            if isinstance(kind, Partial):
                kinds.setdefault(kind, {})[stored.id] = self.part(stored, stored.id)
                self.place(stored, axis, None)
                self.drop_copies(stored)
        for kind, parts in kinds.items():
            for bucket in _buckets(list(parts.values())):
                self.out.append(wire.AllReduce(axis, kind.value, bucket))

    def reduce_scatter(self, axis: int, kind: Partial, found: Sequence[tuple[Stored, int]]) -> None:
        """Reduce Partials of a kind along an axis, of which every worker keeps the digit of the weight given with each."""
        parts = []
        for stored, weight in found:
            parts.append(self.scattered_part(stored, stored.id, self.states[stored.state].placed, axis, weight))
            self.place(stored, axis, weight)
            self.drop_copies(stored)
        for bucket in _buckets(parts):
            self.out.append(wire.ReduceScatter(axis, kind.value, bucket))

    def scattered_part(self, stored: Stored, id: int, placed: OfStorage, axis: int, weight: int, out: int = 0) -> wire.Part:
        """What a reduce-scatter along an axis makes the digit of `weight` of; `placed`: before that."""
        digit = local_weight(on_axis(placed, axis, weight), self.mesh.sizes, axis)
        return self.part(stored, id, digit, out, on_axis(placed, axis, None))

    def gather(self, stored: Stored, id: int, placed: OfStorage, axis: int) -> int:
        """Gather what `id` holds of a storage that is placed so; returns the id of the copy."""
        out = self.new_id()
        weight = local_weight(placed, self.mesh.sizes, axis)
        self.out.append(wire.AllGather(axis, (self.part(stored, id, weight, out, placed),)))
        return out

    def gather_in_place(self, stored: Stored, axis: int) -> None:
        """Make a sharded storage itself replicated along an axis."""
        before = stored.id
        self.have_renamed = True
        stored.id = self.gather(stored, before, self.states[stored.state].placed, axis)
        self.out.append(before)
        self.place(stored, axis, None)
        self.drop_copies(stored)

    def make_whole(self, stored: Stored) -> None:
        """Make a storage itself replicated."""
        for axis in range(len(self.mesh.sizes)):
            self.reduce([stored], axis)
        for _, axis in digits(self.states[stored.state].placed):
            self.gather_in_place(stored, axis)

    def whole_copy(self, stored: Stored) -> tuple[int, list[int]]:
        """The id of a replicated storage with the same elements, and the copies that were made for it."""
        for axis in range(len(self.mesh.sizes)):
            self.reduce([stored], axis)
        placed, at, made = self.states[stored.state].placed, stored.id, []
        for _, axis in digits(placed):
            at = self.gather(stored, at, placed, axis)
            placed = on_axis(placed, axis, None)
            made.append(at)
        return at, made


def _buckets(parts: list[wire.Part]) -> list[tuple[wire.Part, ...]]:
    """Parts in order, together up to `BUCKET_BYTES`."""
    buckets: list[list[wire.Part]] = []
    size = BUCKET_BYTES
    for one in parts:
        if size >= BUCKET_BYTES:
            buckets.append([])
            size = 0
        buckets[-1].append(one)
        size += one.elements * item_bytes(one.dtype)
    return [tuple(bucket) for bucket in buckets]
