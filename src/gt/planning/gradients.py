"""Gradients that are not yet where their parameters are, and when they are to be brought there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class _Due:
    """Gradients, with their bytes, that are due once they fill a bucket."""

    def __init__(self, bucket_bytes: int) -> None:
        self._bucket_bytes = bucket_bytes
        self._size_bytes: dict[int, int] = {}
        self.sum_bytes = 0

    def add(self, gradient: int, size_bytes: int) -> None:
        self._size_bytes[gradient] = size_bytes
        self.sum_bytes += size_bytes

    def remove(self, gradient: int) -> None:
        self.sum_bytes -= self._size_bytes.pop(gradient, 0)

    def take(self) -> list[int]:
        return self.take_all() if self.sum_bytes >= self._bucket_bytes else []

    def take_all(self) -> list[int]:
        taken = list(self._size_bytes)
        self._size_bytes.clear()
        self.sum_bytes = 0
        return taken


class PendingGradients:
    """The gradients of one session; a storage's id each.

    Those of which a worker needs only a part are due as soon as they fill a bucket of `part_bytes`, so that no worker holds
    all of them whole. The others are due when they fill one of `bucket_bytes`, which hides their reduction behind the
    backward pass, if in the step before nothing was added to a gradient: what is added to one that is reduced already has to
    be reduced by itself.
    """

    def __init__(self, bucket_bytes: int, part_bytes: int) -> None:
        self._pending: dict[int, int] = {}
        """Those that may still be Partials, each with its parameter."""
        self._whole = _Due(bucket_bytes)
        self._in_parts = _Due(part_bytes)
        self._had: set[int] = set()
        """The parameters that have got a gradient in this step."""
        self.of_step: set[int] = set()
        """The gradients of this step."""
        self._accumulated = False
        """Whether in this step something was added to a gradient."""
        self._are_eager = False
        """Whether in the step before nothing was. In the first one nobody knows what it will do."""

    def control(self) -> Any:
        """All that decides when gradients are due, to be compared; None while some are pending."""
        if self._pending:
            return None
        due = self._whole.sum_bytes, self._in_parts.sum_bytes
        return frozenset(self._had), len(self.of_step), due, self._accumulated, self._are_eager

    def __contains__(self, id: object) -> bool:
        return id in self._pending

    def add(self, gradient: int, parameter: int, size_bytes: int, in_parts: bool) -> None:
        """A parameter has a new gradient. `in_parts`: it is to be reduced, and a worker needs only a part of it."""
        if parameter in self._had:
            self._are_eager = not self._accumulated
            self._accumulated = False
            self._had.clear()
            self.of_step.clear()
        self._had.add(parameter)
        self.of_step.add(gradient)
        self._pending[gradient] = parameter
        if in_parts:
            self._in_parts.add(gradient, size_bytes)
        elif self._are_eager:
            self._whole.add(gradient, size_bytes)

    def written(self, id: int) -> None:
        """A part of another gradient was added to a storage."""
        if id in self.of_step:
            self._accumulated = True

    def remove(self, id: int) -> None:
        """A storage is freed."""
        self.of_step.discard(id)
        if self._pending.pop(id, None) is not None:
            self._in_parts.remove(id)
            self._whole.remove(id)

    def take_buckets(self) -> Iterator[dict[int, int]]:
        """Those that are due, with their parameters; they are not pending from then on."""
        for due in (self._in_parts, self._whole):
            if taken := due.take():
                yield {gradient: self._pending.pop(gradient) for gradient in taken}

    def take_all(self) -> dict[int, int]:
        """All that are pending, with their parameters; none is from then on."""
        self._in_parts.take_all()
        self._whole.take_all()
        taken, self._pending = self._pending, {}
        return taken
