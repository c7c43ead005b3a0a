"""How much memory a session holds: now, and at most since its start or a reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

COUNTED_FROM_BYTES = 1 << 16
"""Results from this size on count towards the peak as they are made; counting smaller ones would cost too much."""


class MemoryUsage:
    """The bytes of a session's storages. `storages` (by id: their views, or a `Poison`) is its memory's own table."""

    def __init__(self, storages: Mapping[int, Any]) -> None:
        self._storages = storages
        self._peak_bytes = 0
        self._large: dict[int, int] = {}
        """The bytes of each storage that counted, until it is found to be freed."""
        self._large_bytes = 0
        """Their sum."""

    def count(self, id: int, size_bytes: int) -> None:
        """Count a new storage. Freed ones are looked for only where the sum would be a new peak."""
        if size_bytes < COUNTED_FROM_BYTES:
            return
        self._large[id] = size_bytes
        self._large_bytes += size_bytes
        if self._large_bytes > self._peak_bytes:
            self._large = {id: self._large[id] for id in self._large.keys() & self._storages.keys()}
            self._large_bytes = sum(self._large.values())
            self._peak_bytes = max(self._peak_bytes, self._large_bytes)

    def bytes(self) -> int:
        """The bytes of all storages."""
        members = (next(iter(views.values())) for views in self._storages.values() if isinstance(views, dict))
        return sum(t.untyped_storage().nbytes() for t in members if isinstance(t, torch.Tensor))

    def peak_bytes(self, reset: bool = False) -> int:
        """The most bytes since the start or a reset: of large storages at any time, of small ones now."""
        now = self.bytes()
        peak = max(self._peak_bytes, now)
        self._peak_bytes = now if reset else peak
        return peak
