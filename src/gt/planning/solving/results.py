"""Where the results of a call are: as the choice has them, or cut like an operand as which the call cannot be sharded."""

from __future__ import annotations

import math
from typing import Any

from gt.placement.digit import Partial, ShardedDim, Underivable, part
from gt.planning.geometry import seen_as, view_of
from gt.planning.plan import Choice, CutBack, Digit
from gt.planning.rule import LabelGroup, Labels
from gt.planning.solving.operand import Operand
from gt.planning.solving.solved import Solved
from gt.wire.instructions import Geometry

IMPOSSIBLE = object()


def place_results(solved: Solved, group: LabelGroup, choice: Choice) -> int | None:
    """Place the results; returns an axis whose choice they cannot have."""
    for index, labels in group.outs.items():
        geometry = solved.define.outs[index]
        assert geometry is not None
        placed: list[Any] = []
        for axis, chosen in enumerate(choice):
            found = _placed(group, index, labels, geometry, solved.sizes[axis], chosen)
            if found is IMPOSSIBLE:
                return axis
            placed.append(found)
        seen = part(view_of(geometry), tuple(placed), solved.sizes)
        if isinstance(seen, Underivable):
            return seen.axis
        solved.placed[index] = tuple(placed)
        solved.local_outs[index] = seen_as(geometry, seen[0])
    return None


def _placed(
    group: LabelGroup, index: int, labels: Labels, geometry: Geometry, count: int, chosen: Digit | Partial | None
) -> Any:
    """A result's placement along an axis of `count` workers; IMPOSSIBLE if it cannot have it."""
    if not isinstance(chosen, Digit):
        return chosen
    if chosen.label in labels:
        dim = labels.index(chosen.label)
        period = chosen.weight * count
        if geometry.size[dim] % period or view_of(geometry).extent != math.prod(geometry.size):
            return IMPOSSIBLE
        return chosen.weight * geometry.stride[dim]
    return group.partial if chosen.label in group.sums.get(index, ()) else None


def cut_back(solved: Solved, group: LabelGroup, operands: list[Operand], choice: Choice) -> None:
    """Shard results as an operand is sharded, where they are whole only since the call cannot be."""
    for axis, chosen in enumerate(choice):
        if chosen is not None:
            continue
        for operand in operands:
            shard = operand.view[axis]
            if isinstance(shard, ShardedDim) and not operand.written and operand.labels[shard.dim] not in group.may_shard:
                _cut_results_like(solved, group, operand, axis, shard)
                break


def _cut_results_like(solved: Solved, group: LabelGroup, operand: Operand, axis: int, shard: ShardedDim) -> None:
    for index, labels in group.outs.items():
        geometry = solved.define.outs[index]
        if geometry is None or view_of(geometry).extent != math.prod(geometry.size):
            continue
        label = operand.labels[shard.dim]
        if label is not None and label in labels:
            dim = labels.index(label)
        elif label is None and geometry.size == operand.geometry.size:
            dim = shard.dim
        else:
            continue
        if geometry.size[dim] % (shard.weight * solved.sizes[axis]) or not geometry.stride[dim]:
            continue
        cut = CutBack(index, axis, shard.weight * geometry.stride[dim])
        placed = list(solved.placed[index])
        for one in (*(c for c in solved.cuts if c.result == index), cut):
            placed[one.axis] = one.weight
        if not isinstance(part(view_of(geometry), tuple(placed), solved.sizes), Underivable):
            solved.cuts.append(cut)
