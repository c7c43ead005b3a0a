"""The collectives of a session that are under way: the worker goes on until an instruction needs what one of them makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gt.wire import instructions as wire
from gt.worker.group import Pending
from gt.worker.memory import Awaited, Storages

MOST_UNDER_WAY = 3
"""Collectives that are under way at one time, each with a bucket of its own: a backward pass gathers one and reduces two."""
TOGETHER = (*wire.COLLECTIVES, wire.SameGenerator)
"""The instructions in which all workers along an axis take part."""
WITHOUT_STORAGES = (
    wire.Define,
    wire.Forget,
    wire.Scope,
    wire.Seed,
    wire.GetRandomState,
    wire.SetRandomState,
    wire.Coordinate,
)
USED: dict[type, Callable[[Any], Iterable[Any]]] = {
    wire.Op: lambda item: item.args,
    wire.Upload: lambda item: (item.id,),
    wire.Fetch: lambda item: (item.id,),
    wire.Query: lambda item: [id for id, _ in item.ins],
    wire.Cut: lambda item: (item.id,),
    wire.Slice: lambda item: (item.id,),
    wire.Once: lambda item: (item.id,),
    wire.WriteTensor: lambda item: (item.id,),
    wire.Recover: lambda item: item.ids,
    **dict.fromkeys(wire.COLLECTIVES, lambda item: [part.id for part in item.parts]),
}
"""The storages that an instruction reads or writes; an operation's numbers among them do no harm. Others use any storage."""


class Collective:
    """A collective under way. `finish` puts its results into the session's memory."""

    def __init__(self, pending: Sequence[Pending], finish: Callable[[], None], fail: Callable[[Exception], None]) -> None:
        self._pending = list(pending)
        self.finish = finish
        self.fail = fail
        self.before: dict[int, Any] = {}
        """What it makes or replaces, by id, as that was before; None where nothing of that is kept."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, at most `timeout_s` seconds; False if it has not come. Raises RuntimeError if it failed."""
        while self._pending:
            if not self._pending[0].wait(timeout_s):
                return False
            del self._pending[0]
        return True


class UnderWay:
    """The collectives of one session that have begun and not ended, in order; `storages`: its memory's own table."""

    def __init__(self, storages: Storages) -> None:
        self._storages = storages
        self.begun: list[Collective] = []

    def add(self, collective: Collective, item: Any) -> None:
        """An instruction has begun a collective: until it ends, nobody may use what it makes."""
        self.begun.append(collective)
        for id in made(item):
            in_place = isinstance(item, wire.AllReduce)
            collective.before[id] = self._storages.get(id) if in_place else None  # the others make a new one
            self._storages[id] = Awaited(collective)

    def needed(self, item: Any) -> list[Collective]:
        """What has to end before an instruction can run, in the order in which it began."""
        if isinstance(item, WITHOUT_STORAGES):
            return []
        used = USED.get(type(item))
        if used is None:
            return list(self.begun)
        places = [self._storages.get(id) for id in used(item)]
        found = [place.collective for place in places if type(place) is Awaited]
        if isinstance(item, TOGETHER) and len(self.begun) >= MOST_UNDER_WAY:
            found.append(self.begun[0])
        return [collective for collective in self.begun if collective in found]

    def remove(self, collective: Collective) -> list[int]:
        """A collective has ended: nothing waits for its storages any more. Returns those that were freed meanwhile."""
        self.begun.remove(collective)
        freed = []
        for id, before in collective.before.items():
            place = self._storages.get(id)
            if type(place) is not Awaited:
                freed.append(id)
            elif before is None:
                del self._storages[id]
            else:
                self._storages[id] = before
        return freed


def made(item: Any) -> list[int]:
    """The storages that an instruction of a sharded session makes or replaces."""
    if isinstance(item, wire.SameGenerator | wire.Recover):
        return []
    if isinstance(item, wire.COLLECTIVES):
        return [part.out or part.id for part in item.parts]
    return [item.id] if isinstance(item, wire.Cut) else [item.out]
