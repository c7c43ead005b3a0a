"""A loop of a program, which needs no planning: what the workers are told follows from what they were told the last time.

What a planner makes of instructions depends on ids only by which of them are the same. So a loop is kept as *forms*, all
that has to be the same the next time, and *values*, the ids and numbers that may be others. Each value has a *slot*, in the
order in which they are met; what the workers are told is made of what is in the slots.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gt.planning.forms import Maker, apart
from gt.planning.parameters import Parameters
from gt.planning.snapshot import Changes, Facts, facts, worker_ids
from gt.wire import instructions as wire


@dataclass(frozen=True)
class Loop:
    """What a program sent and what the workers were told, between two moments at which the planner's `control` was the same.

    Slots: 0 holds 0; then come the ids that the planner makes, `changes.made` of them; the ids of the storages that are
    `carried` into the loop, as they have a place of their own or copies; and the values of the instructions. `forms`,
    `slots_until`, `makers_until`: by instruction of the program. `slots`: of each value. `firsts`: the values that are met
    for the first time. `known`: slots of storages that the planner knew before the loop, with their `facts`; `fresh`: of
    other ids.
    """

    control: Any
    carried: list[tuple[int, Facts]]
    forms: list[Any]
    slots_until: list[int]
    slots: list[int]
    firsts: list[int]
    fresh: list[int]
    known: list[int]
    facts: list[Facts]
    makers_until: list[int]
    makers: list[Maker]
    changes: Changes


class Following:
    """A program that goes through a loop, from its begin on. The planner's state stays that of the begin until the end."""

    def __init__(self, loop: Loop, parameters: Parameters) -> None:
        self.loop = loop
        self.taken: list[wire.FromClient] = []
        """What the program has sent of the loop."""
        self._parameters = parameters
        self._ids: set[int] = set()
        last = parameters.storages.last_id
        self._values: list[Any] = [0, *range(last + 1, last + loop.changes.made + 1)]
        for id, _ in loop.carried:
            self._values += carried_ids(parameters, id)

    @property
    def left(self) -> int:
        """How many instructions are left until the loop's end."""
        return len(self.loop.forms) - len(self.taken)

    def take(self, items: Sequence[wire.FromClient]) -> list[wire.Instruction] | None:
        """What the workers are told of instructions; None if the loop does not go on so, and then it is left for good."""
        loop, at = self.loop, len(self.taken)
        until = at + len(items)
        try:
            forms, values = apart(items)
        except KeyError:
            return None
        if forms != loop.forms[at:until] or not self._put(values, loop.slots_until[at], loop.slots_until[until]):
            return None
        self.taken += items
        put = self._values
        return [make(put) for make in loop.makers[loop.makers_until[at] : loop.makers_until[until]]]

    def _put(self, values: list[Any], at: int, until: int) -> bool:
        """Put values into their slots; returns whether they are the same and different where they were."""
        loop, put = self.loop, self._values
        before = len(put)
        firsts = loop.firsts[bisect_left(loop.firsts, at) : bisect_left(loop.firsts, until)]
        put += [values[first - at] for first in firsts]
        return self._may_be(before, len(put)) and [put[slot] for slot in loop.slots[at:until]] == values

    def _may_be(self, before: int, until: int) -> bool:
        """Whether the ids in new slots are those of different storages, and the planner knows of them what it knew."""
        loop, put = self.loop, self._values
        fresh_before, fresh_until = bisect_left(loop.fresh, before), bisect_left(loop.fresh, until)
        known_before, known_until = bisect_left(loop.known, before), bisect_left(loop.known, until)
        fresh = [put[slot] for slot in loop.fresh[fresh_before:fresh_until]]
        known = [put[slot] for slot in loop.known[known_before:known_until]]
        self._ids.update(fresh)
        self._ids.update(known)
        return (
            len(self._ids) == fresh_until + known_until
            and self._are_unknown(fresh)
            and [facts(self._parameters, id) for id in known] == loop.facts[known_before:known_until]
        )

    def _are_unknown(self, ids: list[int]) -> bool:
        parameters = self._parameters
        tables = parameters.storages.by_id.keys(), parameters.pins.keys(), parameters.pending.of_step
        return all(table.isdisjoint(ids) for table in tables)

    def finish(self) -> None:
        """The loop's end has come: bring the planner there."""
        self.loop.changes.apply(self._parameters, self._values)


def begin(loop: Loop, parameters: Parameters) -> Following | None:
    """Begin a loop, whose `control` is the planner's now; None if what it carries into it is not what it was."""
    if any(facts(parameters, id) != found for id, found in loop.carried):
        return None
    return Following(loop, parameters)


def carried_ids(parameters: Parameters, id: int) -> tuple[int, ...]:
    """The ids by which a storage is known that is carried into a loop: the client's, then those of the workers."""
    return id, *worker_ids(parameters.storages.by_id[id])
