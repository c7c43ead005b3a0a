"""Bringing operands where a choice needs them."""

from __future__ import annotations

import math
from typing import Any

from gt.placement.digit import OfView, Partial, Underivable, View, digits, part, row_major
from gt.planning.geometry import seen_as, view_of
from gt.planning.plan import Choice, CutWritten, Digit, Gather, Scatter, TakeOnce, TakeSlice
from gt.planning.rule import LabelGroup
from gt.planning.solving.operand import Operand, can_be_cut, can_be_scattered, is_added, needed
from gt.planning.solving.solved import Solved


def bring(solved: Solved, group: LabelGroup, operand: Operand, choice: Choice) -> None:
    """The conversions that bring an operand where the choice needs it, and its local geometry."""
    at = _gathered(solved, group, operand, choice)
    if operand.written:
        _cut_written(solved, operand, choice, at)
    seen = part(view_of(operand.geometry), tuple(at), solved.sizes)
    assert not isinstance(seen, Underivable), "the operand was brought where it can be seen"
    view = _sliced(solved, operand, choice, *seen)
    for axis, chosen in enumerate(choice):
        added = is_added(group, operand, chosen) and not isinstance(at[axis], Partial)
        if added or operand.index in solved.once.get(axis, ()):
            solved.conversions.append(TakeOnce(operand.index, axis))
    solved.local_ins[operand.index] = seen_as(operand.geometry, view)


def _gathered(solved: Solved, group: LabelGroup, operand: Operand, choice: Choice) -> list[Any]:
    """Reduce and gather what the choice cannot use; returns the placement after that."""
    at: list[Any] = list(operand.state.placed)
    scattered: list[tuple[int, int, Partial]] = []
    for axis, placed in enumerate(at):
        passes = placed == choice[axis] or (is_added(group, operand, choice[axis]) and placed is group.partial)
        passes = passes and operand.geometry.dtype == operand.state.dtype
        if not isinstance(placed, Partial) or passes or not operand.read:
            continue
        at[axis] = None
        if can_be_scattered(operand, axis, choice[axis]):
            need = needed(operand.labels, choice[axis])
            assert need is not None
            scattered.append((need.weight * operand.geometry.stride[need.dim], axis, placed))
        else:
            solved.reduces.setdefault(axis, []).append(operand.index)
    for weight, axis in digits(tuple(at)):
        keep = operand.placed[axis] == weight and operand.view[axis] == needed(operand.labels, choice[axis])
        if not keep:
            solved.conversions.append(Gather(operand.index, axis, tuple(at), operand.written))
            at[axis] = None
    for weight, axis, kind in sorted(scattered, key=lambda s: -s[0]):
        solved.conversions.append(Scatter(operand.index, axis, tuple(at), kind, weight))
        at[axis] = weight
    return at


def _cut_written(solved: Solved, operand: Operand, choice: Choice, at: list[Any]) -> None:
    for axis, chosen in enumerate(choice):
        need = needed(operand.labels, chosen)
        if need is not None and at[axis] is None and can_be_cut(operand, axis):
            at[axis] = need.weight * operand.geometry.stride[need.dim]
            solved.conversions.append(CutWritten(operand.index, axis, at[axis]))


def _sliced(solved: Solved, operand: Operand, choice: Choice, view: View, placed: OfView) -> View:
    """Slice what is replicated and needed sharded; returns the local view after that."""
    chosen_digits = [(c.weight, axis, c) for axis, c in enumerate(choice) if isinstance(c, Digit)]
    for weight, axis, chosen in sorted(chosen_digits, key=lambda d: d[:2]):
        need = needed(operand.labels, chosen)
        if need is None or placed[axis] == need:
            continue
        inner = math.prod(
            solved.sizes[a] for w, a, c in chosen_digits if a != axis and c.label == chosen.label and w < weight
        )
        dim, count = need.dim, solved.sizes[axis]
        size = (*view.size[:dim], view.size[dim] // count, *view.size[dim + 1 :])
        if view.stride[dim] == 0:
            view = View(size, view.stride, view.offset)
            continue
        if operand.read:
            seen = seen_as(operand.geometry, view)
            solved.conversions.append(TakeSlice(operand.index, axis, seen, dim, weight // inner))
        view = View(size, row_major(size), 0)
    return view
