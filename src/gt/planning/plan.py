"""A plan: what a call becomes on every worker, for operands in certain states. It is made once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from gt.placement.digit import OfStorage, Partial
from gt.planning.rule import Label
from gt.wire.instructions import Define, Geometry


class Digit(msgspec.Struct, frozen=True):
    """A label that is sharded along an axis, by the digit of weight `weight` of its index."""

    label: Label
    weight: int


Choice: TypeAlias = tuple[Digit | Partial | None, ...]
"""Per axis of the mesh: the label that is sharded, the kind of Partial that passes through, or None: all is replicated."""


class Reduce(msgspec.Struct, frozen=True):
    """Reduce operands, which are Partials along `axis`."""

    operands: tuple[int, ...]
    axis: int


class Gather(msgspec.Struct, frozen=True):
    """Gather an operand along `axis`: a copy, or if it is `written` the storage itself. `placed`: before that."""

    operand: int
    axis: int
    placed: OfStorage
    written: bool


class Scatter(msgspec.Struct, frozen=True):
    """Reduce an operand along `axis` into a copy of which each worker has the digit of `weight`. `placed`: before that."""

    operand: int
    axis: int
    placed: OfStorage
    kind: Partial
    weight: int


class TakeSlice(msgspec.Struct, frozen=True):
    """Copy a worker's part of an operand, seen through `geometry`."""

    operand: int
    axis: int
    geometry: Geometry
    dim: int
    weight: int


class CutWritten(msgspec.Struct, frozen=True):
    """Let every worker keep its part of an operand that the call writes: from then on it is sharded."""

    operand: int
    axis: int
    weight: int


class TakeOnce(msgspec.Struct, frozen=True):
    """Let only one worker along `axis` have an operand, the others zeros."""

    operand: int
    axis: int


Conversion: TypeAlias = Reduce | Gather | Scatter | TakeSlice | CutWritten | TakeOnce


# -- a lowering: the several instructions that a sharded call becomes ------------------------------------------------------


class Ref(msgspec.Struct, frozen=True):
    """A storage in a lowering: operand, result ("in", "out") or a temporary one ("temporary"), by index."""

    kind: str
    index: int


class RunStep(msgspec.Struct, frozen=True):
    """Run a local call. `numbers`: which of the original call's numbers it gets."""

    define: Define
    ins: tuple[Ref, ...]
    outs: tuple[Ref, ...]
    numbers: tuple[int, ...] = ()


class ReduceStep(msgspec.Struct, frozen=True):
    """Reduce storages of one geometry along `axis`."""

    axis: int
    kind: str
    refs: tuple[Ref, ...]
    elements: int
    dtype: str


class CoordinateStep(msgspec.Struct, frozen=True):
    """Make the worker's coordinate along `axis`, times `scale`."""

    axis: int
    scale: int
    out: Ref


class SliceStep(msgspec.Struct, frozen=True):
    """Copy the worker's part of a storage seen through `geometry`."""

    axis: int
    source: Ref
    geometry: Geometry
    out: Ref
    dim: int
    weight: int


Step: TypeAlias = RunStep | ReduceStep | CoordinateStep | SliceStep


@dataclass(frozen=True)
class Lowered:
    """The steps of a lowering, how many temporary storages they use, and the axes along which results are whole after it."""

    steps: tuple[Step, ...]
    temporaries: int
    whole: frozenset[tuple[int, int]] = frozenset()
    """(result, axis): results that the rule calls Partials and that the steps have reduced."""


@dataclass(frozen=True)
class CutBack:
    """Cut a result along `axis`: it was computed whole only because the call cannot be sharded so."""

    result: int
    axis: int
    weight: int


@dataclass(frozen=True)
class Plan:
    """What a call becomes."""

    conversions: tuple[Conversion, ...]
    local: Define
    """The call on every worker; its number is the planner's business."""
    results: tuple[int | None, ...]
    """The numbers of the results' states; None for an undefined one."""
    written: tuple[int, ...]
    lowered: Lowered | None
    cuts: tuple[CutBack, ...]
