"""A mesh: named axes over the workers of one session."""

from __future__ import annotations

import math

import msgspec


class Mesh(msgspec.Struct, frozen=True):
    """Named axes and their sizes. Ranks are numbered with the last axis fastest, as in `torch.distributed`'s DeviceMesh."""

    axes: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def ranks(self) -> int:
        """The number of workers."""
        return math.prod(self.sizes)

    def coordinate(self, rank: int) -> tuple[int, ...]:
        """A rank's place along each axis."""
        place: list[int] = []
        for size in reversed(self.sizes):
            rank, index = divmod(rank, size)
            place.append(index)
        return tuple(reversed(place))

    def rank(self, coordinate: tuple[int, ...]) -> int:
        """The rank at a place."""
        number = 0
        for size, index in zip(self.sizes, coordinate, strict=True):
            number = number * size + index
        return number

    def peers(self, rank: int, axis: int) -> tuple[int, ...]:
        """The ranks that differ from `rank` along one axis only, in order; `rank` is among them."""
        place = self.coordinate(rank)
        return tuple(self.rank((*place[:axis], index, *place[axis + 1 :])) for index in range(self.sizes[axis]))
