"""What a program sends from one call of its root module to the next: kept until it turns out to be a round of a loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, Protocol

from gt.planning.forms import REPEATED, Maker, apart, maker, numbers
from gt.planning.loop import Loop
from gt.planning.parameters import Parameters
from gt.planning.snapshot import Facts, Snapshot, changes
from gt.planning.storages import FIRST_ID
from gt.wire import instructions as wire


class Calls(Protocol):
    """How many operands calls have."""

    def operands(self, call: int) -> int:
        """Of a call of the client's. Raises KeyError if it is not known."""

    def local_operands(self, call: int) -> int:
        """Of a call of the workers'. Raises KeyError if it is not known."""


class _Piece(NamedTuple):
    """Instructions, what they became, and how much of that up to the end of each."""

    items: Sequence[wire.FromClient]
    made: Sequence[wire.Instruction]
    until: Sequence[int]


@dataclass
class Lap:
    """A lap, with what the planner knew before it. `size`: its instructions."""

    before: Snapshot
    pieces: list[_Piece] = field(default_factory=list)
    size: int = 0

    def add(self, items: Sequence[wire.FromClient], made: Sequence[wire.Instruction], until: Sequence[int]) -> None:
        """It goes on with instructions that have been planned."""
        self.pieces.append(_Piece(items, made, until))
        self.size += len(items)

    def planned(self) -> Iterator[tuple[wire.FromClient, Sequence[wire.Instruction]]]:
        """Its instructions, and what each became."""
        for items, made, until in self.pieces:
            for item, start, end in zip(items, (0, *until), until, strict=False):
                yield item, made[start:end]


def loop_of(laps: Sequence[Lap], now: Snapshot, parameters: Parameters, calls: Calls) -> Loop | None:
    """The loop of which these laps were a round; None if they have something that is to be planned each time."""
    planned = list(chain.from_iterable(lap.planned() for lap in laps))
    if not REPEATED.issuperset(type(item) for item, _ in planned):
        return None
    try:
        return _loop(planned, laps[0].before, now, parameters, calls)
    except KeyError:
        return None


def _loop(planned: Sequence[Any], before: Snapshot, now: Snapshot, parameters: Parameters, calls: Calls) -> Loop:
    forms, values = apart([item for item, _ in planned])
    slots = _Slots(before, now.made, values, parameters)
    makers: list[Maker] = []
    slots_until, makers_until = [0], [0]
    for item, made in planned:
        given = numbers(item, calls.operands)
        own = slots.put(apart([item])[1], len(given))
        makers += [maker(one, slots.of_worker, given, own, calls.local_operands) for one in made]
        slots_until.append(len(slots.slots))
        makers_until.append(len(makers))
    return Loop(
        control=now.control,
        carried=[(id, before.storages[id].facts) for id in slots.carried],
        forms=forms,
        slots_until=slots_until,
        slots=slots.slots,
        firsts=slots.firsts,
        fresh=slots.fresh,
        known=slots.known,
        facts=slots.facts,
        makers_until=makers_until,
        makers=makers,
        changes=changes(before, now, slots.of_client, slots.of_worker),
    )


class _Slots:
    """The slots of a loop, found in one round of it. See `Loop`."""

    def __init__(self, before: Snapshot, made: int, values: list[Any], parameters: Parameters) -> None:
        self._storages = before.storages
        self._carried_at: dict[int, int] = {}
        self._met: dict[int, int] = {}
        self.slots: list[int] = []
        self.firsts: list[int] = []
        self.fresh: list[int] = []
        self.known: list[int] = []
        self.facts: list[Facts] = []
        first = [0, *range(before.made + 1, made + 1)]
        for id in self._carried(values, parameters):
            self._carried_at[id] = len(first)
            first += [id, *before.storages[id].ids]
        self._of_worker = {id: slot for slot, id in enumerate(first)}
        self._next = len(first)

    def _carried(self, values: list[Any], parameters: Parameters) -> list[int]:
        """The storages with a place of their own, and those of the loop that the workers know by other ids too."""
        met = {value for value in values if type(value) is int}
        return [
            id
            for id, held in self._storages.items()
            if id in parameters.pins or (held.ids != (id,) and id in met)
        ]  # fmt: skip

    @property
    def carried(self) -> list[int]:
        """The ids of the storages that are carried into the loop."""
        return list(self._carried_at)

    def put(self, values: Sequence[Any], numbers: int) -> list[int]:
        """Find slots for the values of an instruction; returns those of the last ones, which are numbers."""
        ids = len(values) - numbers
        self.slots += [self._of_id(id, len(self.slots) + at) for at, id in enumerate(values[:ids])]
        own = [self._new(len(self.slots) + at) for at in range(numbers)]
        self.slots += own
        return own

    def _of_id(self, id: int, position: int) -> int:
        slot = self._met.get(id)
        if slot is None:
            if not id or id > FIRST_ID:
                raise KeyError(id)  # no client's, and not to be told from what a planner makes
            slot = self._met[id] = self._new(position)
            held = self._storages.get(id)
            if held is None:
                self.fresh.append(slot)
            else:
                self.known.append(slot)
                self.facts.append(held.facts)
        return slot

    def _new(self, position: int) -> int:
        self.firsts.append(position)
        self._next += 1
        return self._next - 1

    def of_client(self, id: int) -> int:
        """The slot of a client's id."""
        return self._met[id] if id in self._met else self._carried_at[id]

    def of_worker(self, id: int) -> int:
        """The slot of an id on the workers."""
        return self._of_worker[id] if id in self._of_worker else self._met[id]
