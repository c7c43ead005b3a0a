"""Storages that have a place of their own: parameters by their names, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gt.placement.digit import OfStorage, Partial, Underivable, digits, local_weight, overlap, part
from gt.placement.layout import Sharding
from gt.placement.pins import Pin, pin
from gt.planning import storages
from gt.planning.gathered import KEPT_BUCKETS, Gathered
from gt.planning.geometry import item_bytes, view_of
from gt.planning.gradients import PendingGradients
from gt.planning.state import State, Stored
from gt.planning.storages import Storages
from gt.wire import instructions as wire

WHOLE_AT_ONCE = 5
"""Buckets of what is fully sharded, of which a worker holds the whole at one time: two of parameters (one in use, one on its
way) and three of gradients (one that is being filled, two on their way). Each is so much smaller: together they are one."""


class Parameters:
    """The named storages of a session, their gradients, and what is gathered of those that are fully sharded.

    `pins`: where named storages belong. `pending`: the gradients that may not be where their parameters are.
    """

    def __init__(self, sharding: Sharding, out: list[wire.Instruction]) -> None:
        self._sharding = sharding
        self._gathered = Gathered(storages.BUCKET_BYTES // WHOLE_AT_ONCE)
        self.storages = Storages(sharding.mesh, out, self._gathered.forget)
        self.pins: dict[int, Pin] = {}
        self._provisional: set[int] = set()
        """Those whose names may become longer."""
        self._version = 0
        """How often a storage has got a place or lost it."""
        self.pending = PendingGradients(storages.BUCKET_BYTES, storages.BUCKET_BYTES // WHOLE_AT_ONCE)
        self._ahead: tuple[Sequence[Stored], int] | None = None
        """What to gather, and along which axis, besides the operands of the call that is planned now."""

    def name(self, item: wire.Name) -> None:
        """A storage has a name, and so a place."""
        rule = self._sharding.param(item.name)
        stored = self.storages.find(item.id, item.geometry)
        if item.id not in self.pins or (item.id in self._provisional and not item.provisional):
            placements = rule.placements if rule is not None else {}
            belongs = pin(view_of(item.geometry), placements, self.storages.mesh, not item.provisional)
            self._pin(item.id, stored, item.geometry, belongs)
            (self._provisional.add if item.provisional else self._provisional.discard)(item.id)

    def control(self) -> Any:
        """All that plans depend on here but the storages themselves, to be compared; None while gradients are pending."""
        of_gradients = self.pending.control()
        return None if of_gradients is None else (self._version, of_gradients, self._gathered.control())

    def _pin(self, id: int, stored: Stored, geometry: wire.Geometry, belongs: Pin) -> None:
        held = self.storages
        fits = held.can_be_placed(stored, belongs.stored)
        if not fits or any(isinstance(part(view_of(geometry), p, held.mesh.sizes), Underivable) for p in belongs):
            belongs = Pin(held.whole, held.whole)
        if held.state(stored).placed != belongs.stored:
            held.make_whole(stored)
        self.pins[id] = belongs
        self._version += 1
        stored.is_special = True
        self.restore(id)
        gathers = belongs.computed != belongs.stored
        held.set(stored, computed=belongs.computed if gathers else None, pinned=True)
        held.drop_copies(stored)
        self._gathered.remove(stored)
        if gathers:
            state = held.state(stored)
            self._gathered.add(stored, state.elements * item_bytes(state.dtype))

    def restore(self, id: int) -> None:
        """A named storage that was gathered to be written goes back to where it belongs."""
        if id in self.pins:
            self._place_as(id, self.pins[id])

    def _place_as(self, id: int, belongs: Pin) -> None:
        """Cut a storage along the axes along which it is replicated and should not be."""
        stored = self.storages.by_id[id]
        placed = self.storages.state(stored).placed
        if any(type(p) is int and p != wanted for p, wanted in zip(placed, belongs.stored, strict=True)):
            return
        for weight, axis in reversed(digits(belongs.stored)):
            if placed[axis] is None:
                self.storages.cut(stored, axis, weight)

    def freed(self, id: int, stored: Stored) -> None:
        """A special storage is freed."""
        self.pending.remove(id)
        self.storages.drop_copies(stored)
        if self.pins.pop(id, None) is not None:
            self._provisional.discard(id)
            self._version += 1
            self._gathered.remove(stored)

    def whole_copy(self, id: int, geometry: wire.Geometry) -> tuple[int, list[int]]:
        """The id of a replicated storage with the elements of one of the client's, and the copies that were made for it."""
        stored = self.storages.find(id, geometry)
        if id in self.pending and any(isinstance(p, Partial) for p in self.storages.state(stored).placed):
            self.settle_gradients()
        return self.storages.whole_copy(stored)

    # -- gradients ---------------------------------------------------------------------------------------------------------

    def gradients(self, item: wire.Gradients) -> None:
        """Parameters have new gradients. Those that are due are brought to where their parameters are."""
        for parameter, gradient in item.pairs:
            if parameter not in self.pins or gradient not in self.storages.by_id:
                continue
            stored, belongs = self.storages.by_id[gradient], self.pins[parameter]
            state = self.storages.state(stored)
            stored.is_special = True
            is_whole = state.elements == self._elements_of(parameter)
            if is_whole:
                self._place_as(gradient, belongs)
            in_parts = is_whole and any(isinstance(state.placed[axis], Partial) for _, axis in digits(belongs.stored))
            self.pending.add(gradient, parameter, state.elements * item_bytes(state.dtype), in_parts)
        for taken in self.pending.take_buckets():
            self._settle(taken)

    def settle_gradients(self) -> None:
        """Bring every gradient to its parameter's placement."""
        self._settle(self.pending.take_all())

    def _settle(self, pending: dict[int, int]) -> None:
        """Bring gradients to their parameters' placements: reduced and scattered together, in buckets."""
        held = self.storages
        buckets: dict[tuple[int, Partial, bool], list[tuple[Stored, int]]] = {}
        for gradient, parameter in pending.items():
            stored = held.by_id[gradient]
            belongs = self.pins[parameter].stored if parameter in self.pins else held.whole
            if held.state(stored).elements != self._elements_of(parameter):
                continue
            self._make_room(gradient, stored, belongs)
            for axis, kind in enumerate(held.state(stored).placed):
                if isinstance(kind, Partial):
                    wanted = belongs[axis]
                    weight = wanted if type(wanted) is int else 0
                    buckets.setdefault((axis, kind, weight > 0), []).append((stored, weight))
        for (axis, kind, scatters), found in buckets.items():
            if scatters and kind is not Partial.NORM:
                held.reduce_scatter(axis, kind, found)
            else:
                held.reduce([stored for stored, _ in found], axis)

    def _make_room(self, gradient: int, stored: Stored, belongs: OfStorage) -> None:
        """Gather a gradient along the axes by which it is sharded otherwise than its parameter, if their digits overlap
        those that it is to be scattered by: as that of a bias which is whole, behind a weight that is sharded."""
        held = self.storages
        placed = held.state(stored).placed
        scattered = tuple(b if isinstance(p, Partial) else p for p, b in zip(placed, belongs, strict=True))
        if overlap(scattered, held.mesh.sizes):
            for axis, weight in enumerate(placed):
                if type(weight) is int and weight != belongs[axis]:
                    held.gather_in_place(stored, axis)
            self._place_as(gradient, Pin(belongs, belongs))

    def _elements_of(self, id: int) -> int:
        stored = self.storages.by_id.get(id)
        return self.storages.state(stored).elements if stored is not None else -1

    # -- what is fully sharded, gathered for use ---------------------------------------------------------------------------

    def gathered_copy(self, stored: Stored, id: int, placed: OfStorage, axis: int) -> int:
        """The id of what is gathered along an axis of a storage, or of a copy of it, that is placed so."""
        key, state = ("gather", placed, axis), self.storages.state(stored)
        if state.computed is None or stored.id != id or _gathered_first(state) != axis:
            return stored.copy(key) or stored.keep(key, self.storages.gather(stored, id, placed, axis))
        if stored.copy(key) is None:
            self._gather_bucket(self._gathered.bucket(stored), axis)
        found = stored.copy(key)
        assert found is not None
        if ahead := self._gathered.use(stored):
            self._ahead = ahead, axis
        return found

    def gather_ahead(self, operands: Sequence[Stored]) -> None:
        """Gather what the calls after this one need, if it is time, in the place of what they do not need any more."""
        if self._ahead is not None:
            (bucket, axis), self._ahead = self._ahead, None
            self._drop_gathered(KEPT_BUCKETS - 1, operands)
            if self._gathered.have_room:
                self._gather_bucket(bucket, axis)

    def drop_gathered(self) -> None:
        """Drop what was gathered and is not needed any more."""
        self._drop_gathered(KEPT_BUCKETS, ())

    def _drop_gathered(self, kept: int, needed: Sequence[Stored]) -> None:
        for stored, key in self._gathered.drop(kept, needed):
            if stored.copies is not None:
                self.storages.out.append(stored.copies.pop(key))

    def _gather_bucket(self, bucket: Sequence[Stored], axis: int) -> None:
        """Gather those fully sharded parameters of a bucket that are not gathered yet."""
        held = self.storages
        parts = []
        for stored in bucket:
            state = held.state(stored)
            key = ("gather", state.placed, axis)
            if stored.copy(key) is None and _gathered_first(state) == axis:
                out = stored.keep(key, held.new_id())
                parts.append(held.part(stored, stored.id, local_weight(state.placed, held.mesh.sizes, axis), out))
                self._gathered.made(stored, key)
        if parts:
            held.out.append(wire.AllGather(axis, tuple(parts)))


def _gathered_first(state: State) -> int:
    """The first axis along which a parameter is gathered for use; -1 if there is none."""
    computed = state.computed or state.placed
    return next((axis for _, axis in digits(state.placed) if computed[axis] is None), -1)
