"""Choosing what is sharded along each axis.

Axis by axis the cheapest of these is taken: a label that some operand is already sharded by, a Partial that passes through,
or everything replicated. The cost is the bytes that travel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from gt.placement.digit import Partial, ShardedDim
from gt.planning.geometry import item_bytes
from gt.planning.plan import Choice, Digit
from gt.planning.rule import LabelGroup
from gt.planning.solving.operand import Operand, can_be_cut, can_be_scattered, is_added, needed

LOCAL_COST = 1e-6
"""The cost of copying a byte locally, against one that travels."""
REPLICATING_COST = 1e-3
"""What decides between two choices of equal cost: a sharded one is computed by less work."""
INFINITE = math.inf


def choose(group: LabelGroup, operands: list[Operand], sizes: tuple[int, ...]) -> Choice:
    """What is sharded along each axis of a mesh of these `sizes`."""
    chosen: list[Digit | Partial | None] = []
    for axis in range(len(sizes)):
        chosen.append(_chosen(group, operands, sizes, axis, chosen))
    return tuple(chosen)


def _chosen(
    group: LabelGroup, operands: list[Operand], sizes: tuple[int, ...], axis: int, before: Sequence[Digit | Partial | None]
) -> Digit | Partial | None:
    passes = passing(group, operands, axis)
    if passes is not None:
        return passes.kind
    count = sizes[axis]
    found = dict.fromkeys(c for o in operands if (c := _candidate(group, operands, o, axis, count)) is not None)
    candidates = [candidate for candidate in found if _nests(candidate, sizes, axis, before)]
    best: Digit | None = None
    cost: float = _cost(group, operands, None, axis, count) + REPLICATING_COST if candidates else 0.0
    for candidate in candidates:
        own = _cost(group, operands, candidate, axis, count)
        if own < cost:
            best, cost = candidate, own
    return best


def _candidate(group: LabelGroup, operands: list[Operand], operand: Operand, axis: int, count: int) -> Digit | None:
    """The digit by which an operand is sharded, if the call may be sharded so."""
    shard = operand.view[axis]
    if not isinstance(shard, ShardedDim):
        return None
    label = operand.labels[shard.dim]
    if label is None or label not in group.may_shard:
        return None
    period = shard.weight * count
    sizes = {o.geometry.size[d] for o in operands for d, other in enumerate(o.labels) if other == label}
    if any(size % period for size in sizes) or (label in group.contiguous and any(size != period for size in sizes)):
        return None
    return Digit(label, shard.weight)


def _nests(candidate: Digit, sizes: tuple[int, ...], axis: int, before: Sequence[Digit | Partial | None]) -> bool:
    """Whether a digit leaves those of the same label alone that the axes before this one have."""
    own = [(c.weight, a) for a, c in enumerate(before) if isinstance(c, Digit) and c.label == candidate.label]
    together = sorted([*own, (candidate.weight, axis)])
    return not any(upper % (lower * sizes[a]) for (lower, a), (upper, _) in itertools.pairwise(together))


def _cost(group: LabelGroup, operands: list[Operand], choice: Digit | None, axis: int, count: int) -> float:
    """The bytes that travel under a choice for an axis of `count` workers; INFINITE if it cannot be."""
    total = 0.0
    for operand in operands:
        need, have = needed(operand.labels, choice), operand.view[axis]
        if is_added(group, operand, choice):
            if have is group.partial:
                continue
            if operand.written:
                return INFINITE
        if have == need or not operand.read:
            continue
        if operand.written and need is not None and not can_be_cut(operand, axis):
            return INFINITE  # a write goes to the storage, never to a copy
        g = operand.geometry
        held = math.prod(n for n, s in zip(g.size, g.stride, strict=True) if s) * item_bytes(g.dtype)
        travels = held * (count - 1) / count
        whole = isinstance(have, Partial) and not can_be_scattered(operand, axis, choice)
        total += travels * (LOCAL_COST if have is None else 2 if whole else 1)
    return total


class _Passing(NamedTuple):
    """A Partial of this kind passes through a call. `once`: replicated operands that only one rank may have for that."""

    kind: Partial
    once: frozenset[int]


def passing(group: LabelGroup, operands: list[Operand], axis: int) -> _Passing | None:
    """The Partial with which a group computes: all operands in which it is linear are one, and the others replicated.

    Something replicated is added to a Partial in place by one rank.
    """
    have = {operand.index: operand.view[axis] for operand in operands if operand.read}
    kinds = {placed for placed in have.values() if isinstance(placed, Partial)}
    if len(kinds) != 1 or not kinds <= group.passes:
        return None
    (kind,) = kinds
    partial = {index for index, placed in have.items() if placed is kind}
    for together in group.linear or (frozenset(have),):
        once = together - partial
        fits = (
            partial <= together and group.written <= partial and (not once or (bool(group.written) and kind is Partial.SUM))
        )
        if fits and all(have[index] is None for index in have.keys() - partial):
            return _Passing(kind, once)
    return None
