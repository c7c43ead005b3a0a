"""Fully sharded parameters that are gathered for use: together in buckets, and dropped when others are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gt.planning.state import Stored

KEPT_BUCKETS = 2
"""Buckets whose parameters are gathered at one time: the one in use, and the one before it, which an operator may share."""


class Gathered:
    """The buckets of a session's fully sharded parameters, in the order in which they were named."""

    def __init__(self, bucket_bytes: int) -> None:
        self._bucket_bytes = bucket_bytes
        self._buckets: list[list[Stored]] = []
        self._bytes = bucket_bytes
        self._bucket_of: dict[int, int] = {}
        """By the identity of the storage's record."""
        self._copies: dict[int, list[tuple[Stored, Any]]] = {}
        """What is gathered now, by bucket, in order of the last use."""

    def add(self, stored: Stored, size_bytes: int) -> None:
        """A parameter has been named."""
        if self._bytes >= self._bucket_bytes:
            self._buckets.append([])
            self._bytes = 0
        self._buckets[-1].append(stored)
        self._bucket_of[id(stored)] = len(self._buckets) - 1
        self._bytes += size_bytes

    def remove(self, stored: Stored) -> None:
        """A parameter, if it is one of these, is freed or will be stored otherwise. Its copies have been dropped."""
        number = self._bucket_of.pop(id(stored), None)
        if number is not None:
            self._buckets[number] = [other for other in self._buckets[number] if other is not stored]

    def bucket(self, stored: Stored) -> list[Stored]:
        """The parameters that are gathered together with this one."""
        return self._buckets[self._bucket_of[id(stored)]]

    def made(self, stored: Stored, key: Any) -> None:
        """A parameter was gathered; its copy is `stored.copies[key]`."""
        self._copies.setdefault(self._bucket_of[id(stored)], []).append((stored, key))

    def use(self, stored: Stored) -> None:
        """A parameter is used now."""
        number = self._bucket_of.get(id(stored))
        if number in self._copies:
            self._copies[number] = self._copies.pop(number)

    def forget(self, stored: Stored) -> None:
        """The copies of a parameter were dropped: it was written or freed."""
        number = self._bucket_of.get(id(stored))
        if number in self._copies:
            self._copies[number] = [entry for entry in self._copies[number] if entry[0] is not stored]

    def evict(self) -> Iterator[tuple[Stored, Any]]:
        """What to drop, as others have been gathered since."""
        while len(self._copies) > KEPT_BUCKETS:
            yield from self._copies.pop(next(iter(self._copies)))
