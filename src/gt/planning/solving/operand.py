"""An operand of a call that is solved: where it is, and what may be done with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gt.placement.digit import OfView, Partial, ShardedDim
from gt.planning.geometry import view_of
from gt.planning.plan import Digit
from gt.planning.rule import LabelGroup, Labels
from gt.planning.state import State
from gt.wire.instructions import Geometry


@dataclass
class Operand:
    """An operand of a call: its labels, where it is, and what a worker can see of it there."""

    index: int
    geometry: Geometry
    state: State
    labels: Labels
    written: bool
    read: bool
    """Whether its elements matter."""
    placed: list[Any]
    """Its placement without what has to be gathered in any case."""
    view: OfView
    """The same of what it sees, with that of a batch, which is sharded as it is read."""


def is_added(group: LabelGroup, operand: Operand, choice: Digit | Partial | None) -> bool:
    """Whether an operand is added to what is a Partial under a choice."""
    return isinstance(choice, Digit) and choice.label in group.once.get(operand.index, ())


def needed(labels: Labels, choice: Digit | Partial | None) -> ShardedDim | None:
    """The placement that an operand with these labels needs."""
    if isinstance(choice, Digit) and choice.label in labels:
        return ShardedDim(labels.index(choice.label), choice.weight)
    return None


def can_be_scattered(operand: Operand, axis: int, choice: Digit | Partial | None) -> bool:
    """Whether a Partial may be reduced so that each worker gets only its part, into a copy."""
    if operand.written or operand.state.placed[axis] is Partial.NORM or needed(operand.labels, choice) is None:
        return False
    return _is_whole(operand)


def _is_whole(operand: Operand) -> bool:
    """Whether an operand is all of its storage, without gaps."""
    view = view_of(operand.geometry)
    dense = math.prod(view.size) == view.extent == operand.state.elements
    return dense and operand.geometry.dtype == operand.state.dtype


def can_be_cut(operand: Operand, axis: int) -> bool:
    """Whether an operand that is written may be sharded where it is: it is all of a replicated storage without a place."""
    return _is_whole(operand) and operand.state.placed[axis] is None and not operand.state.pinned
