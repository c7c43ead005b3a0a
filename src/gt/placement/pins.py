"""From what a configuration says of a tensor to the digits of its storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gt.errors import ConfigError
from gt.placement.digit import OfStorage, View
from gt.placement.layout import FullyShard, Placement, Shard
from gt.placement.mesh import Mesh


class Pin(NamedTuple):
    """Where a tensor belongs: how it is stored, and how it is computed with."""

    stored: OfStorage
    computed: OfStorage


def pin(view: View, placements: Mapping[str, Placement], mesh: Mesh, strict: bool = True) -> Pin:
    """The digits for a tensor. Axes that shard one dim nest, those that gather it for use innermost.

    A `FullyShard` that does not divide leaves the tensor replicated along its axis; so does any placement unless `strict`.
    Raises ConfigError for a dim that the tensor does not have, or a `Shard` that does not divide.
    """
    stored: list[int | None] = [None] * len(mesh.sizes)
    computed: list[int | None] = [None] * len(mesh.sizes)
    pieces: dict[int, int] = {}
    """By dim: into how many parts the axes before this one cut it."""
    for axis in sorted(range(len(mesh.sizes)), key=lambda a: isinstance(placements.get(mesh.axes[a]), FullyShard)):
        placement, count = placements.get(mesh.axes[axis]), mesh.sizes[axis]
        if not isinstance(placement, Shard | FullyShard):
            continue
        parts = placement.parts if isinstance(placement, Shard) else 1
        dim = _dim(view, placement.dim, mesh.axes[axis], not strict or isinstance(placement, FullyShard))
        divisor = pieces.get(dim, 1) * parts * count
        if dim < 0 or view.size[dim] % divisor:
            if strict and isinstance(placement, Shard):
                raise ConfigError(_undivided(view, dim, divisor, mesh.axes[axis]))
            continue
        weight = view.stride[dim] * view.size[dim] // divisor
        if not weight:  # a dim without elements, or whose elements are one
            continue
        stored[axis] = weight
        if isinstance(placement, Shard):
            computed[axis] = stored[axis]
        pieces[dim] = divisor
    return Pin(tuple(stored), tuple(computed))


def _dim(view: View, dim: int, axis: str, optional: bool) -> int:
    dims = len(view.size)
    if -dims <= dim < dims:
        return dim % dims
    if optional:
        return -1
    legal = f"legal: {-dims} to {dims - 1}" if dims else "legal: replicate"
    raise ConfigError(f"{axis}: dim {dim} of a tensor of {dims} dims, {list(view.size)}; {legal}")


def _undivided(view: View, dim: int, divisor: int, axis: str) -> str:
    legal = f"legal: a dim that does, replicate, or fully_shard({dim}), which leaves whole what does not divide"
    return f"{axis}: dim {dim} of {list(view.size)} does not divide by {divisor}; {legal}"
