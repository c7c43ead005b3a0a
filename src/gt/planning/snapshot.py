"""What a planner knows of its storages at a moment, and how to bring it from the begin of a loop to its end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gt.planning.forms import Slot
from gt.planning.parameters import Parameters
from gt.planning.state import Stored

Facts = tuple[Any, ...]
"""All that plans depend on of a storage, but for ids that another storage in its place would have."""


def facts(parameters: Parameters, id: int) -> Facts | None:
    """The facts of a storage; None if the planner does not know it.

    A storage that the workers know by other ids too, or that has a place of its own, can be replaced by none: then its own
    id is among them.
    """
    stored = parameters.storages.by_id.get(id)
    if stored is None:
        return None
    own: Facts | None = None
    if stored.copies is not None or stored.id != id or id in parameters.pins:
        own = id, stored.id != id, None if stored.copies is None else tuple(stored.copies)
    return stored.state, stored.is_special, id in parameters.pending.of_step, own


class Held(NamedTuple):
    """A storage at that moment. `ids`: on the workers, its own and then those of its copies."""

    facts: Facts
    ids: tuple[int, ...]


def worker_ids(stored: Stored) -> tuple[int, ...]:
    """The ids by which the workers know a storage and its copies."""
    return stored.id, *(stored.copies or {}).values()


@dataclass(frozen=True)
class Snapshot:
    """What a planner knew. `control`: what it knew apart from storages (`Planner.control`). `made`: its last id."""

    control: Any
    made: int
    storages: dict[int, Held]
    of_step: frozenset[int]


def snapshot(parameters: Parameters, control: Any) -> Snapshot:
    """What a planner knows now."""
    held = parameters.storages
    storages = {id: Held(facts(parameters, id) or (), worker_ids(stored)) for id, stored in held.by_id.items()}
    return Snapshot(control, held.last_id, storages, frozenset(parameters.pending.of_step))


class _Change(NamedTuple):
    """What has become of a storage: where its id is found, and where its ids on the workers, in the order of `Held`."""

    id: int
    state: int
    is_special: bool
    keys: tuple[Any, ...] | None
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Changes:
    """From one snapshot to another. Ids are given by their slots: where among the values of a loop they are."""

    made: int
    freed: tuple[int, ...]
    storages: tuple[_Change, ...]
    of_step: tuple[int, ...]
    not_of_step: tuple[int, ...]

    def apply(self, parameters: Parameters, values: Sequence[Any]) -> None:
        """Bring a planner from one to the other, with these values."""
        held = parameters.storages
        for slot in self.freed:
            del held.by_id[values[slot]]
        for change in self.storages:
            id = values[change.id]
            stored = held.by_id.get(id)
            if stored is None:
                stored = held.by_id[id] = Stored(id, change.state)
            stored.id, *copies = (values[slot] for slot in change.ids)
            stored.state, stored.is_special = change.state, change.is_special
            stored.copies = None if change.keys is None else dict(zip(change.keys, copies, strict=True))
        parameters.pending.of_step -= {values[slot] for slot in self.not_of_step}
        parameters.pending.of_step |= {values[slot] for slot in self.of_step}
        held.last_id += self.made


def changes(before: Snapshot, after: Snapshot, slot: Slot, worker_slot: Slot) -> Changes:
    """What changed between two snapshots. `slot`: where an id of the client's is found, `worker_slot`: one of the workers'.

    Both raise KeyError for an id that is found nowhere.
    """
    met = before.storages.keys() | after.storages.keys()
    changed = [id for id in met if before.storages.get(id) != after.storages.get(id)]

    def slots(ids: Iterable[int]) -> tuple[int, ...]:
        return tuple(map(slot, ids))

    return Changes(
        made=after.made - before.made,
        freed=slots(id for id in changed if id not in after.storages),
        storages=tuple(_change(id, after.storages[id], slot, worker_slot) for id in changed if id in after.storages),
        of_step=slots(after.of_step - before.of_step),
        not_of_step=slots(before.of_step - after.of_step),
    )


def _change(id: int, held: Held, slot: Slot, worker_slot: Slot) -> _Change:
    state, is_special, _, own = held.facts
    return _Change(slot(id), state, is_special, own[2] if own else None, tuple(map(worker_slot, held.ids)))
