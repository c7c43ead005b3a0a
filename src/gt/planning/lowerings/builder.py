"""Collecting the steps of a lowering."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import msgspec

from gt.placement.mesh import Mesh
from gt.planning.geometry import dense
from gt.planning.plan import Choice, CoordinateStep, Digit, Lowered, ReduceStep, Ref, RunStep, SliceStep, Step
from gt.wire import instructions as wire
from gt.wire.instructions import Define, Geometry, In

Value: TypeAlias = tuple[Ref, Geometry]
"""A storage, and how it is seen."""


class Builder:
    """Collects the steps of a lowering. `original` is the call as the client made it, `local` its local form."""

    def __init__(self, original: Define, local: Define, choice: Choice, mesh: Mesh) -> None:
        self.original = original
        self.local = local
        self.choice = choice
        self.mesh = mesh
        self.steps: list[Step] = []
        self.temporaries = 0

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers that vary from call to call, all of them, for a step that takes the arguments of the call."""
        flat: list[Any] = []
        for value in (*self.original.args, *self.original.kwargs.values()):
            flat += value if isinstance(value, list) else [value]
        return tuple(range(sum(isinstance(value, wire.Number) for value in flat)))

    def axes(self, label: Any) -> list[int]:
        """The axes along which a label is sharded."""
        return [axis for axis, c in enumerate(self.choice) if isinstance(c, Digit) and c.label == label]

    def result(self, index: int) -> Geometry:
        """The local geometry of a result that is defined."""
        return _defined(self.local.outs[index])

    def whole_result(self, index: int) -> Geometry:
        """The geometry that a defined result has on one worker."""
        return _defined(self.original.outs[index])

    def temporary(self) -> Ref:
        """A new storage that the lowering frees at its end."""
        self.temporaries += 1
        return Ref("temporary", self.temporaries - 1)

    def run(self, op: str, args: list[Any], ins: list[Value], out: Geometry, to: Ref | None = None) -> Value:
        """Run an operator with one result, which goes to `to` or a temporary storage."""
        made = to or self.temporary()
        define = Define(0, f"aten::{op}", args, {}, [g for _, g in ins], [out])
        self.steps.append(RunStep(define, tuple(r for r, _ in ins), (made,)))
        return made, out

    def cast(self, value: Value, dtype: str, to: Ref | None = None) -> Value:
        """The value in another dtype."""
        made, out = to or self.temporary(), dense(value[1].size, dtype)
        define = Define(0, "aten::_to_copy", [In(0)], {"dtype": wire.Dtype(dtype)}, [value[1]], [out])
        self.steps.append(RunStep(define, (value[0],), (made,)))
        return made, out

    def reduce(self, axis: int, kind: str, *values: Value) -> None:
        """Reduce values of one geometry along an axis."""
        g = values[0][1]
        self.steps.append(ReduceStep(axis, kind, tuple(r for r, _ in values), math.prod(g.size), g.dtype))

    def filled(self, op: str, g: Geometry, to: Ref | None = None) -> Value:
        """A new tensor of a geometry: "zeros", "ones" or "empty.memory_format"."""
        made = to or self.temporary()
        kwargs: dict[str, Any] = {"dtype": wire.Dtype(g.dtype), "device": wire.Device()}
        self.steps.append(RunStep(Define(0, f"aten::{op}", [list(g.size)], kwargs, [], [g]), (), (made,)))
        return made, g

    def coordinate(self, axis: int, scale: int) -> Value:
        """The worker's coordinate along an axis, times `scale`."""
        made = self.temporary()
        self.steps.append(CoordinateStep(axis, scale, made))
        return made, dense((), "int64")

    def slice(self, value: Value, dims: int, to: Ref | None = None) -> Value:
        """The worker's part of a whole value whose dims are the labels 0 to `dims`."""
        digits = sorted((c.weight, axis, c) for axis, c in enumerate(self.choice) if isinstance(c, Digit))
        ref, g = value
        for position, (weight, axis, chosen) in enumerate(digits):
            count = self.mesh.sizes[axis]
            inner = 1
            for _, other, c in digits[:position]:
                inner *= self.mesh.sizes[other] if c.label == chosen.label else 1
            dim = dim_of(chosen.label, dims)
            last = position == len(digits) - 1
            out = to if last and to is not None else self.temporary()
            self.steps.append(SliceStep(axis, ref, g, out, dim, weight // inner))
            g = dense((*g.size[:dim], g.size[dim] // count, *g.size[dim + 1 :]), g.dtype)
            ref = out
        return ref, g

    def lowered(self, whole: set[tuple[int, int]] | None = None) -> Lowered:
        """What was collected."""
        return Lowered(tuple(self.steps), self.temporaries, frozenset(whole or ()))


def with_dim(value: Value) -> Value:
    """The value with a dim of size 1 behind its own."""
    g = value[1]
    return value[0], msgspec.structs.replace(g, size=(*g.size, 1), stride=(*g.stride, 1))


def _defined(geometry: Geometry | None) -> Geometry:
    assert geometry is not None
    return geometry


def dim_of(label: Any, dims: int) -> int:
    """The dim that a label is, which may count from the right, as in broadcasting."""
    assert isinstance(label, int)
    return label % dims
