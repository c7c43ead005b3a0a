"""Fully sharded parameters that are gathered for use: in buckets, ahead of it, and dropped when others are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gt.planning.state import Stored

KEPT_BUCKETS = 2
"""Buckets whose parameters are gathered at one time: the one in use, and the one before it, which an operator may share, or,
from the middle of its use on, the one that comes next."""


class Gathered:
    """The buckets of a session's fully sharded parameters: in the order of their names, then in that of their use."""

    def __init__(self, bucket_bytes: int) -> None:
        self._bucket_bytes = bucket_bytes
        self._size_bytes: dict[Stored, int] = {}
        """Of each parameter, in the order in which they were named."""
        self._bucket_of: dict[Stored, int] = {}
        self._copies: dict[int, list[tuple[Stored, Any]]] = {}
        """What is gathered now, by bucket, in order of the last use."""
        self._begin({})

    def _begin(self, order: dict[Stored, None] | None) -> None:
        """Begin without buckets, and without having learned anything."""
        self._order = order
        """The parameters in the order of their first use; None: the buckets have it."""
        self._buckets: list[list[Stored]] = []
        self._last_bytes = self._bucket_bytes
        """The size of the last bucket; so much that there has to be another one."""
        self._now = (-1, -1)
        """The bucket that is in use, after the one that was before it: together they say which pass it is."""
        self._uses = 0
        """How often it has been used since then."""
        self._learned: dict[tuple[int, int], tuple[int, int]] = {}
        """How often a bucket was used, and which came next; by what `_now` was then."""
        self._expected: dict[int, tuple[int, int]] = {}
        """The buckets that were gathered ahead and not used yet, with what `_now` was then."""
        self._in_vain: set[tuple[int, int]] = set()
        """Where that was in vain: the parameters were written before their next use."""

    def add(self, stored: Stored, size_bytes: int) -> None:
        """A parameter has been named."""
        self._size_bytes[stored] = size_bytes
        self._append(stored)

    def control(self) -> Any:
        """All that decides what is gathered and dropped, to be compared."""
        return (
            [(stored, stored.state, None if stored.copies is None else list(stored.copies)) for stored in self._size_bytes],
            None if self._order is None else list(self._order),
            [list(bucket) for bucket in self._buckets],
            (self._now, self._uses, self._last_bytes),
            dict(self._learned),
            dict(self._expected),
            frozenset(self._in_vain),
            [(number, list(copies)) for number, copies in self._copies.items()],
        )

    def _append(self, stored: Stored) -> None:
        if self._last_bytes >= self._bucket_bytes:
            self._buckets.append([])
            self._last_bytes = 0
        self._buckets[-1].append(stored)
        self._bucket_of[stored] = len(self._buckets) - 1
        self._last_bytes += self._size_bytes[stored]

    def remove(self, stored: Stored) -> None:
        """A parameter, if it is one of these, is freed or will be stored otherwise. Its copies have been dropped."""
        if stored in self._bucket_of:
            self._buckets[self._bucket_of.pop(stored)].remove(stored)
            del self._size_bytes[stored]
            if self._order is not None:
                self._order.pop(stored, None)
            if not self._size_bytes:
                self._begin({})

    def bucket(self, stored: Stored) -> list[Stored]:
        """The parameters that are gathered together with this one."""
        return self._buckets[self._bucket_of[stored]]

    def made(self, stored: Stored, key: Any) -> None:
        """A parameter was gathered; its copy is `stored.copies[key]`."""
        self._copies.setdefault(self._bucket_of[stored], []).append((stored, key))

    def use(self, stored: Stored) -> Sequence[Stored]:
        """A parameter is used now. Returns those that are to be gathered ahead, in the middle of a bucket's use."""
        number = self._bucket_of.get(stored)
        if number is None:
            return ()
        if self._order is not None:
            if self._have_turned and stored is next(iter(self._order), None):
                self._regroup((*self._order, *self._size_bytes))
                number = self._bucket_of[stored]
            else:
                self._order.setdefault(stored)
        self._expected.pop(number, None)
        if number != self._now[1]:
            self._enter(number)
        if number in self._copies:
            self._copies[number] = self._copies.pop(number)
        self._uses += 1
        return self._due()

    def _due(self) -> Sequence[Stored]:
        uses, following = self._learned.get(self._now, (0, -1))
        is_due = 0 < uses <= 2 * self._uses and self._now not in self._in_vain and following not in self._copies
        if self._order is not None or not is_due:
            return ()
        self._expected[following] = self._now
        return self._buckets[following]

    @property
    def _have_turned(self) -> bool:
        """Whether more than one bucket has been in use."""
        return len(self._learned) > 1

    def _enter(self, number: int) -> None:
        """Another bucket is in use. A visit that is far shorter than the one before it only fetches a straggler."""
        if 2 * self._uses >= self._learned.get(self._now, (0, 0))[0]:
            self._learned[self._now] = self._uses, number
        self._now = self._now[1], number
        self._uses = 0

    def _regroup(self, order: Iterable[Stored]) -> None:
        """The first parameter is used once more, so the order of use is known: make the buckets anew in that order."""
        copies = [one for found in self._copies.values() for one in found]
        self._begin(None)
        for stored in dict.fromkeys(order):
            self._append(stored)
        self._copies.clear()
        for stored, key in copies:
            self.made(stored, key)

    def forget(self, stored: Stored) -> None:
        """The copies of a parameter were dropped: it was written or freed."""
        number = self._bucket_of.get(stored)
        if number in self._expected:
            self._in_vain.add(self._expected.pop(number))
        if number in self._copies:
            self._copies[number] = [entry for entry in self._copies[number] if entry[0] is not stored]
            if not self._copies[number]:
                del self._copies[number]

    @property
    def have_room(self) -> bool:
        """Whether one more bucket may be gathered."""
        return len(self._copies) < KEPT_BUCKETS

    def drop(self, kept: int, needed: Sequence[Stored]) -> Iterator[tuple[Stored, Any]]:
        """What to drop so that at most `kept` buckets are gathered: those of longest ago, as far as none is `needed`."""
        numbers = {self._bucket_of.get(stored) for stored in needed}
        while len(self._copies) > kept and (oldest := next(iter(self._copies))) not in numbers:
            yield from self._copies.pop(oldest)
