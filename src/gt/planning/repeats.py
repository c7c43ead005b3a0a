"""A program that repeats itself is planned once: what the workers are told is then looked up by whole stretches.

A *lap* is what a program sends from one call of its root module to the next, such as a step of training. When the planner
is where it was some laps before, these were a round of a loop (`laps`). While the program goes through it again, the planner
stays at the loop's begin, and is brought to its end as a whole (`loop`). If the program leaves the loop, what it has sent of
it is planned after all, to bring the planner to where the program is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from gt.planning.laps import Calls, Lap, loop_of
from gt.planning.loop import Following, Loop, begin
from gt.planning.parameters import Parameters
from gt.planning.snapshot import Snapshot, snapshot
from gt.wire import instructions as wire

MOST_LAPS = 8
"""Laps of which a round may consist."""
MOST_ITEMS = 1 << 16
"""Instructions of which a round may consist."""
MOST_STORAGES = 1 << 15
"""Storages of which a planner may know for its state to be compared."""
MOST_MISSES = 3
"""How often in a row a program may leave a loop: then that is dropped."""
STEADY_ROUNDS = 8
"""Rounds in a row after which a program is taken to repeat itself."""
LONGEST_REST = 64
"""Laps for which a program that does not repeat itself is left alone, at most."""


class Planning(Calls, Protocol):
    """What plans instructions one by one (`Planner`)."""

    parameters: Parameters

    def plan(self, items: Sequence[wire.FromClient], until: list[int] | None = None) -> list[wire.Instruction]:
        """The workers' instructions for the client's. `until`: is to say how many there are up to each."""

    def control(self) -> Any:
        """All that plans depend on but the storages of the program, to be compared. None: no loop begins here."""


class Repeats:
    """Looks for the loop of a program, and follows it."""

    def __init__(self, planner: Planning) -> None:
        self._planner = planner
        self._last: type | None = None
        """The kind of the instruction before."""
        self._laps: deque[Lap] = deque()
        """The last laps, of which the last is not over."""
        self._looked = 0
        """For how many laps a loop has been looked for in vain."""
        self._least = 1
        """Of how many laps a round is: at least so many, of more after a loop had to be dropped."""
        self._rest = self._last_rest = 0
        """For how many laps the program is left alone, and was the last time."""
        self._loop: Loop | None = None
        self._following: Following | None = None
        self._rounds = self._misses = 0
        """How often in a row the program has come to the loop's end, or has not."""
        self.repeated = 0
        """Instructions of the program that needed no planning."""

    def rewrite(self, items: Sequence[wire.FromClient]) -> list[wire.Instruction]:
        """The instructions of every worker for those of the client."""
        made: list[wire.Instruction] = []
        at = 0
        while at < len(items):
            if self._following is None and self._begins_lap(items, at):
                self._begin_lap()
            if self._following is not None:
                piece = items[at : at + self._following.left]
                made += self._follow(self._following, piece)
            else:
                piece = items[at : self._next_lap(items, at)]
                made += self._plan(piece)
            at += len(piece)
            self._last = type(piece[-1])
        return made

    def stop(self) -> None:
        """What comes is not rewritten here: bring the planner to where the program is."""
        self._leave()
        self._laps.clear()

    def _begins_lap(self, items: Sequence[wire.FromClient], at: int) -> bool:
        """Whether the root module is called. It may have several arguments."""
        before = type(items[at - 1]) if at else self._last
        return type(items[at]) is wire.Argument and before is not wire.Argument

    def _next_lap(self, items: Sequence[wire.FromClient], at: int) -> int:
        return next((after for after in range(at + 1, len(items)) if self._begins_lap(items, after)), len(items))

    # -- looking for a loop ------------------------------------------------------------------------------------------------

    def _plan(self, items: Sequence[wire.FromClient]) -> list[wire.Instruction]:
        if not self._laps:
            return self._planner.plan(items)
        until: list[int] = []
        made = self._planner.plan(items, until)
        self._laps[-1].add(items, made, until)
        while self._laps and sum(lap.size for lap in self._laps) > MOST_ITEMS:
            self._laps.popleft()
        return made

    def _begin_lap(self) -> None:
        control = self._planner.control()
        parameters = self._planner.parameters
        if self._loop is not None:
            self._following = begin(self._loop, parameters) if control == self._loop.control else None
            if self._following is None:
                self._miss()
        elif self._rest:
            self._rest -= 1
        elif control is not None and len(parameters.storages.by_id) <= MOST_STORAGES:
            self._look(snapshot(parameters, control))

    def _look(self, now: Snapshot) -> None:
        """Look for a loop that ends here; the smallest, so that it is found early."""
        for count in range(self._least, len(self._laps) + 1):
            if self._laps[-count].before.control == now.control:
                self._loop = loop_of(list(self._laps)[-count:], now, self._planner.parameters, self._planner)
                self._laps.clear()
                break
        if self._loop is not None:
            self._following = begin(self._loop, self._planner.parameters)
        elif self._looked == 2 * MOST_LAPS:
            self._pause()
        else:
            self._looked += 1
            self._laps.append(Lap(now))
            if len(self._laps) > MOST_LAPS:
                self._laps.popleft()

    def _pause(self) -> None:
        """The program does not repeat itself: leave it alone, the longer the more often that was so."""
        self._looked = 0
        self._laps.clear()
        self._rest = self._last_rest = min(2 * self._last_rest + 1, LONGEST_REST)

    # -- following it ------------------------------------------------------------------------------------------------------

    def _follow(self, following: Following, items: Sequence[wire.FromClient]) -> list[wire.Instruction]:
        made = following.take(items)
        if made is None:
            self._leave()
            self._miss()
            return self._planner.plan(items)
        self.repeated += len(items)
        if not following.left:
            following.finish()
            self._misses = 0
            self._rounds += 1
            if self._rounds >= STEADY_ROUNDS:
                self._last_rest, self._least = 0, 1
            self._following = begin(following.loop, self._planner.parameters)
        return made

    def _leave(self) -> None:
        """Bring the planner to where the program is. The workers have been told."""
        if self._following is not None:
            taken, self._following = self._following.taken, None
            self._planner.plan(taken)

    def _miss(self) -> None:
        self._rounds = 0
        self._misses += 1
        if self._misses == MOST_MISSES:
            self._loop = None
            self._misses = 0
            self._least = self._least % MOST_LAPS + 1
            self._pause()
