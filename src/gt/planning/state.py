"""What the planner knows of a storage: its placement, how many elements it has, and what has been made of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from gt.placement.digit import OfStorage


class Batch(NamedTuple):
    """A view of a storage is an argument: calls that read it, or another with as many rows, may take it as sharded by the
    digits `placed`, counted from the element `start` on, which is less than `period`, that of the highest digit."""

    start: int
    period: int
    placed: OfStorage


class State(NamedTuple):
    """The state of a storage. Plans depend on it, and on nothing else of a storage.

    `computed`: the placement in which a parameter is computed with, where that is not the one in which it is stored.
    `graph`: for the handle of a composite's graph, what its forward pass chose. `pinned`: whether the storage has a place
    of its own, as a parameter; another may be sharded where that is cheap. `batch`: what should be sharded of a storage that
    cannot be, as a data set whose rows do not divide.
    """

    placed: OfStorage
    elements: int
    dtype: str
    computed: OfStorage | None = None
    graph: Any = None
    pinned: bool = False
    batch: Batch | None = None


class States:
    """States by number, so that a plan is looked up by a few integers."""

    def __init__(self) -> None:
        self._states: list[State] = []
        self._numbers: dict[State, int] = {}

    def number(self, state: State) -> int:
        """The number of a state."""
        found = self._numbers.get(state)
        if found is None:
            found = self._numbers[state] = len(self._states)
            self._states.append(state)
        return found

    def __getitem__(self, number: int) -> State:
        return self._states[number]


class Stored(msgspec.Struct, eq=False):
    """A storage of the program. `id`: its id on the workers, which is the client's until it is made anew.

    `copies`: ids of what was gathered or sliced of it, by how, until it is written or freed; None: nothing. `is_special`:
    whether more than its end is to be noted when it is freed, as of parameters and gradients.
    """

    id: int
    state: int
    copies: dict[Any, int] | None = None
    is_special: bool = False

    def keep(self, key: Any, id: int) -> int:
        """Note a copy; returns its id."""
        if self.copies is None:
            self.copies = {}
            self.is_special = True
        self.copies[key] = id
        return id

    def copy(self, key: Any) -> int | None:
        """The id of a copy, if there is one."""
        return self.copies.get(key) if self.copies is not None else None
