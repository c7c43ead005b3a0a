"""A shard is one digit of a storage's linear index.

Of a storage that is sharded over n ranks by a digit of weight u, rank r owns the elements i with `(i // u) % n == r`.
Without that digit, i is the element's index in the rank's own storage. A view is a size, a stride and an offset, so the same
step tells, without knowing how the view was made, which part of it a rank has, with what size, stride and offset, and which
dim of the view is sharded. A digit that is not the top one of a dim shards each of several pieces of it, such as the three
of a fused QKV projection.

Views that no single digit describes have no placement: their storage has to be gathered first.
docs/decisions/020-sharding.md; tests/unit/placement/test_digit.py compares with brute force.
"""

from __future__ import annotations

import enum
import itertools
import math
from typing import NamedTuple, TypeAlias


class Partial(enum.Enum):
    """A value of which every rank has a part, and how the parts make it up."""

    SUM = "sum"
    AVERAGE = "average"
    NORM = "norm"
    """The square root of the sum of the parts' squares."""


OfStorage: TypeAlias = tuple[int | Partial | None, ...]
"""The placement of a storage, per axis of the mesh: the weight of its digit, a Partial, or None where it is replicated."""


class ShardedDim(NamedTuple):
    """The digit of weight `weight` of a view's dim: `(index // weight) % n` is the rank that owns an index."""

    dim: int
    weight: int


OfView: TypeAlias = tuple[ShardedDim | Partial | None, ...]
"""The placement of a view, per axis of the mesh."""


class View(NamedTuple):
    """A tensor in its storage: sizes and strides in elements, the offset in elements."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def extent(self) -> int:
        """The elements that a storage needs for it, from its start on."""
        if 0 in self.size:
            return 0
        return self.offset + 1 + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))


class Underivable(NamedTuple):
    """Why a rank's part of a view is not itself a view: `axis` of the mesh is to be gathered."""

    axis: int
    reason: str


def row_major(size: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    strides: list[int] = []
    step = 1
    for n in reversed(size):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def without_digit(view: View, weight: int, count: int) -> tuple[View, ShardedDim] | str:
    """A rank's part of a view whose storage is sharded by the digit of `weight` over `count` ranks, and the dim's own digit.

    A reason instead if that part is not a view.
    """
    period = weight * count
    size, stride = list(view.size), list(view.stride)
    found: int | None = None
    reach = 0
    """How far the dims of lower weight reach beyond the offset."""
    for dim, (n, step) in enumerate(zip(view.size, view.stride, strict=True)):
        if n == 1 or step == 0:
            continue
        if step % period == 0:
            stride[dim] = step // count
        elif found is None and weight % step == 0 and n * step % period == 0:
            found = dim
            size[dim] = n // count
        elif (n - 1) * step < weight:
            reach += (n - 1) * step
        else:
            return "a dim spans parts"
    if found is None:
        return "one rank has all of it"
    step = view.stride[found]
    high, low = divmod(view.offset, period)
    if low + reach >= step:
        return "its offset carries into the parts"
    return View(tuple(size), tuple(stride), high * weight + low), ShardedDim(found, weight // step)


def digits(placed: OfStorage) -> list[tuple[int, int]]:
    """The (weight, axis) of each axis that shards, smallest weight first."""
    return sorted((p, axis) for axis, p in enumerate(placed) if type(p) is int)


def overlap(placed: OfStorage, sizes: tuple[int, ...]) -> bool:
    """Whether two axes shard by digits that overlap, as no storage can be sharded. `sizes`: of the mesh's axes."""
    found = digits(placed)
    return any(above % (weight * sizes[axis]) for (weight, axis), (above, _) in itertools.pairwise(found))


def on_axis(placed: OfStorage, axis: int, one: int | Partial | None) -> OfStorage:
    """The placement, with the one along an axis replaced."""
    return (*placed[:axis], one, *placed[axis + 1 :])


def part(view: View, placed: OfStorage, sizes: tuple[int, ...]) -> tuple[View, OfView] | Underivable:
    """A rank's part of a view of a storage that is placed so, and the view's own placement. `sizes`: of the mesh's axes."""
    seen: list[ShardedDim | Partial | None] = [p if isinstance(p, Partial) else None for p in placed]
    above = 0
    for weight, axis in reversed(digits(placed)):
        if above % (weight * sizes[axis]):
            return Underivable(axis, "two axes shard by digits that overlap")
        above = weight
        found = without_digit(view, weight, sizes[axis])
        if isinstance(found, str):
            return Underivable(axis, found)
        view, seen[axis] = found
    return view, tuple(seen)


def local_weight(placed: OfStorage, sizes: tuple[int, ...], axis: int) -> int:
    """The weight of an axis' digit in a rank's own storage, from which the digits of the other axes are gone."""
    weight = placed[axis]
    assert type(weight) is int
    return weight // math.prod(sizes[other] for lower, other in digits(placed) if lower < weight)


def local_elements(elements: int, placed: OfStorage, sizes: tuple[int, ...]) -> int:
    """The elements that each rank has of a storage."""
    return elements // math.prod(sizes[axis] for _, axis in digits(placed))
