"""Calls that become several instructions when they are sharded: what a rule names as its `lowering`.

Each is written with ATen's own operators and small collectives, so a worker needs no kernel for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from gt.placement.digit import row_major
from gt.placement.mesh import Mesh
from gt.planning.plan import Choice, CoordinateStep, Digit, Lowered, ReduceStep, Ref, RunStep, SliceStep, Step
from gt.planning.rules.reading import floating
from gt.wire import instructions as wire
from gt.wire.instructions import Define, Geometry, In

HALF = ("float16", "bfloat16")
"""dtypes in which sums over a class dim are not kept: the CPU's own kernels compute these in float32."""


class Builder:
    """Collects the steps of a lowering. `original` is the call as the client made it, `local` its local form."""

    def __init__(self, original: Define, local: Define, choice: Choice, mesh: Mesh) -> None:
        self.original = original
        self.local = local
        self.choice = choice
        self.mesh = mesh
        self.steps: list[Step] = []
        self.temporaries = 0

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

    def run(
        self, op: str, args: list[Any], ins: list[tuple[Ref, Geometry]], out: Geometry, to: Ref | None = None
    ) -> tuple[Ref, Geometry]:
        """Run an operator with one result, which goes to `to` or a temporary storage."""
        made = to or self.temporary()
        define = Define(0, f"aten::{op}", args, {}, [g for _, g in ins], [out])
        self.steps.append(RunStep(define, tuple(r for r, _ in ins), (made,)))
        return made, out

    def cast(self, value: tuple[Ref, Geometry], dtype: str, to: Ref | None = None) -> tuple[Ref, Geometry]:
        """The value in another dtype."""
        made, out = to or self.temporary(), dense(value[1].size, dtype)
        define = Define(0, "aten::_to_copy", [In(0)], {"dtype": wire.Dtype(dtype)}, [value[1]], [out])
        self.steps.append(RunStep(define, (value[0],), (made,)))
        return made, out

    def reduce(self, axis: int, kind: str, *values: tuple[Ref, Geometry]) -> None:
        """Reduce values of one geometry along an axis."""
        g = values[0][1]
        elements = 1
        for n in g.size:
            elements *= n
        self.steps.append(ReduceStep(axis, kind, tuple(r for r, _ in values), elements, g.dtype))

    def coordinate(self, axis: int, scale: int) -> tuple[Ref, Geometry]:
        """The worker's coordinate along an axis, times `scale`."""
        made = self.temporary()
        self.steps.append(CoordinateStep(axis, scale, made))
        return made, dense((), "int64")

    def slice(self, value: tuple[Ref, Geometry], dims: int, to: Ref | None = None) -> tuple[Ref, Geometry]:
        """The worker's part of a whole value whose dims are the labels 0 to `dims`."""
        digits = sorted((c.weight, axis, c) for axis, c in enumerate(self.choice) if isinstance(c, Digit))
        ref, g = value
        for position, (weight, axis, chosen) in enumerate(digits):
            count = self.mesh.sizes[axis]
            inner = 1
            for _, other, c in digits[:position]:
                inner *= self.mesh.sizes[other] if c.label == chosen.label else 1
            dim = _dim(chosen.label, dims)
            last = position == len(digits) - 1
            out = to if last and to is not None else self.temporary()
            self.steps.append(SliceStep(axis, ref, g, out, dim, weight // inner))
            g = dense((*g.size[:dim], g.size[dim] // count, *g.size[dim + 1 :]), g.dtype)
            ref = out
        return ref, g

    def lowered(self, whole: set[tuple[int, int]] | None = None) -> Lowered:
        """What was collected."""
        return Lowered(tuple(self.steps), self.temporaries, frozenset(whole or ()))


def _defined(geometry: Geometry | None) -> Geometry:
    assert geometry is not None
    return geometry


def _dim(label: Any, dims: int) -> int:
    """Labels that are positions may count from the right, as in broadcasting."""
    assert isinstance(label, int)
    return label % dims


def dense(size: tuple[int, ...], dtype: str) -> Geometry:
    """The geometry of a contiguous tensor."""
    return Geometry(size, row_major(size), 0, dtype)


def lower(name: str, original: Define, local: Define, choice: Choice, mesh: Mesh) -> Lowered | None:
    """The lowering of a call; None where its local form alone is right."""
    return LOWERINGS[name](Builder(original, local, choice, mesh))


# -- dims of which each worker has a run, as of a vocabulary ----------------------------------------------------------------


def _own_rows(
    b: Builder, index: tuple[Ref, Geometry], axis: int, rows: int
) -> tuple[tuple[Ref, Geometry], tuple[Ref, Geometry]]:
    """Indices into this worker's rows, and whether each is another worker's (then it is 0 here).

    Indices that are no worker's stay out of range, so that the kernel raises as it does on one worker.
    """
    size, dtype, count = index[1].size, index[1].dtype, b.mesh.sizes[axis]
    first = b.coordinate(axis, rows)
    own = b.run("sub.Tensor", [In(0), In(1)], [index, first], dense(size, dtype))
    outside = b.run("lt.Scalar", [In(0), 0], [own], dense(size, "bool"))
    above = b.run("ge.Scalar", [In(0), rows], [own], dense(size, "bool"))
    outside = b.run("logical_or", [In(0), In(1)], [outside, above], dense(size, "bool"))
    for op, bound in (("ge.Scalar", 0), ("lt.Scalar", rows * count)):
        valid = b.run(op, [In(0), bound], [index], dense(size, "bool"))
        outside = b.run("logical_and", [In(0), In(1)], [outside, valid], dense(size, "bool"))
    return b.run("masked_fill.Scalar", [In(0), In(1), 0], [own, outside], dense(size, dtype)), outside


def _embedding(b: Builder) -> Lowered | None:
    axes = b.axes("v")
    if not axes:
        return None
    weight, index = b.local.ins[0], b.local.ins[1]
    out = b.result(0)
    own, outside = _own_rows(b, (Ref("in", 1), index), axes[0], weight.size[0])
    found = b.run("embedding", [In(0), In(1)], [(Ref("in", 0), weight), own], dense(out.size, out.dtype))
    mask = msgspec.structs.replace(outside[1], size=(*outside[1].size, 1), stride=(*outside[1].stride, 1))
    b.run("masked_fill.Scalar", [In(0), In(1), 0], [found, (outside[0], mask)], out, Ref("out", 0))
    return b.lowered()


def _gather(b: Builder) -> Lowered | None:
    axes = b.axes("run")
    if not axes:
        return None
    source, index, out = b.local.ins[0], b.local.ins[1], b.result(0)
    at = _dim(b.local.args[1], len(source.size))
    own, outside = _own_rows(b, (Ref("in", 1), index), axes[0], source.size[at])
    found = b.run("gather", [In(0), at, In(1)], [(Ref("in", 0), source), own], dense(out.size, out.dtype))
    b.run("masked_fill.Scalar", [In(0), In(1), 0], [found, outside], out, Ref("out", 0))
    return b.lowered()


def _scatter_add(b: Builder) -> Lowered | None:
    """In place or not: what belongs to another worker's part is added as zeros."""
    axes = b.axes("run")
    if not axes:
        return None
    target, index, source = b.local.ins
    at = _dim(b.local.args[1], len(target.size))
    own, outside = _own_rows(b, (Ref("in", 1), index), axes[0], target.size[at])
    seen = msgspec.structs.replace(source, size=index.size)  # `src` may be larger than the index
    added = b.run("masked_fill.Scalar", [In(0), In(1), 0], [(Ref("in", 2), seen), outside], dense(index.size, source.dtype))
    define = msgspec.structs.replace(b.local, args=[In(0), at, In(1), In(2)], ins=[target, own[1], added[1]])
    outs = () if define.writes else (Ref("out", 0),)
    b.steps.append(RunStep(define, (Ref("in", 0), own[0], added[0]), outs))
    return b.lowered()


def _largest(b: Builder) -> Lowered | None:
    """Largest values, and whether one is NaN, which a collective may lose."""
    reduced = b.original.args[1] if len(b.original.args) > 1 else []
    dims = range(len(b.local.ins[0].size))
    assert isinstance(reduced, list)
    axes = [axis for d in ({_dim(d, len(dims)) for d in reduced} or dims) for axis in b.axes(d)]
    if not axes:
        return None
    out, source = b.result(0), (Ref("in", 0), b.local.ins[0])
    if not floating(out.dtype):
        whole = b.run("amax", list(b.local.args), [source], out, Ref("out", 0))
        for axis in axes:
            b.reduce(axis, "max", whole)
        return b.lowered()
    found = b.run("amax", list(b.local.args), [source], dense(out.size, out.dtype))
    strange = b.cast(b.run("ne.Tensor", [In(0), In(0)], [found], dense(out.size, "bool")), out.dtype)
    for axis in axes:
        b.reduce(axis, "max", found, strange)
    lost = b.run("gt.Scalar", [In(0), 0], [strange], dense(out.size, "bool"))
    b.run("masked_fill.Scalar", [In(0), In(1), math.nan], [found, lost], out, Ref("out", 0))
    return b.lowered()


# -- softmax over a sharded dim --------------------------------------------------------------------------------------------


def _softmax_parts(b: Builder) -> tuple[Any, ...] | None:
    """The axis of the sharded dim, the dim, and the local input in a dtype for sums; None if the dim is not sharded."""
    out = b.result(0)
    dims = len(out.size)
    position = 2 if len(b.local.ins) == 2 else 1
    dim = b.local.args[position] % dims  # type: ignore[operator]
    axes = [a for a, c in enumerate(b.choice) if isinstance(c, Digit) and _dim(c.label, dims) == dim]
    return (axes, dim, out) if axes else None


def _summed(b: Builder, value: tuple[Ref, Geometry], dim: int, axes: list[int]) -> tuple[Ref, Geometry]:
    size = value[1].size
    total = dense((*size[:dim], 1, *size[dim + 1 :]), value[1].dtype)
    made = b.run("sum.dim_IntList", [In(0), [dim], True], [value], total)
    for axis in axes:
        b.reduce(axis, "sum", made)
    return made


def _in_full(b: Builder, value: tuple[Ref, Geometry]) -> tuple[Ref, Geometry]:
    return b.cast(value, "float32") if value[1].dtype in HALF else value


def _finish(b: Builder, op: str, ins: list[tuple[Ref, Geometry]], out: Geometry) -> Lowered:
    args: list[Any] = [In(i) for i in range(len(ins))]
    dtype = ins[0][1].dtype
    if dtype == out.dtype:
        b.run(op, args, ins, out, Ref("out", 0))
    else:
        b.cast(b.run(op, args, ins, dense(out.size, dtype)), out.dtype, Ref("out", 0))
    return b.lowered()


def _softmax(b: Builder) -> Lowered | None:
    return _soft(b, "div.Tensor", logarithm=False)


def _log_softmax(b: Builder) -> Lowered | None:
    return _soft(b, "sub.Tensor", logarithm=True)


def _soft(b: Builder, last: str, logarithm: bool) -> Lowered | None:
    found = _softmax_parts(b)
    if found is None:
        return None
    axes, dim, out = found
    x = _in_full(b, (Ref("in", 0), b.local.ins[0]))
    size, dtype = x[1].size, x[1].dtype
    top = b.run("amax", [In(0), [dim], True], [x], dense((*size[:dim], 1, *size[dim + 1 :]), dtype))
    for axis in axes:
        b.reduce(axis, "max", top)
    shifted = b.run("sub.Tensor", [In(0), In(1)], [x, top], dense(size, dtype))
    powers = b.run("exp", [In(0)], [shifted], dense(size, dtype))
    total = _summed(b, powers, dim, axes)
    if not logarithm:
        return _finish(b, last, [powers, total], out)
    return _finish(b, last, [shifted, b.run("log", [In(0)], [total], total[1])], out)


def _softmax_backward(b: Builder) -> Lowered | None:
    found = _softmax_parts(b)
    if found is None:
        return None
    axes, dim, out = found
    grad, result = (_in_full(b, (Ref("in", i), b.local.ins[i])) for i in (0, 1))
    product = b.run("mul.Tensor", [In(0), In(1)], [grad, result], dense(out.size, grad[1].dtype))
    rest = b.run("sub.Tensor", [In(0), In(1)], [grad, _summed(b, product, dim, axes)], product[1])
    return _finish(b, "mul.Tensor", [rest, result], out)


def _log_softmax_backward(b: Builder) -> Lowered | None:
    found = _softmax_parts(b)
    if found is None:
        return None
    axes, dim, out = found
    grad, result = (_in_full(b, (Ref("in", i), b.local.ins[i])) for i in (0, 1))
    powers = b.run("exp", [In(0)], [result], dense(out.size, grad[1].dtype))
    product = b.run("mul.Tensor", [In(0), In(1)], [powers, _summed(b, grad, dim, axes)], powers[1])
    return _finish(b, "sub.Tensor", [grad, product], out)


# -- losses by class index -------------------------------------------------------------------------------------------------

NONE, MEAN, SUM = 0, 1, 2


def _nll(b: Builder) -> Lowered | None:
    """Rows sharded: sum and count, reduced together. Classes sharded: each worker has the rows whose class is its own."""
    classes = b.axes("c")
    rows = [axis for axis, c in enumerate(b.choice) if isinstance(c, Digit) and axis not in classes]
    reduction = b.local.args[3]
    if not classes and (not rows or reduction != MEAN):
        return None
    loss, weight = b.result(0), b.result(1)
    target = Ref("out", 0), loss
    if classes:
        _nll_of_classes(b, classes[0])
    else:
        define = msgspec.structs.replace(b.local, args=[*b.local.args[:3], SUM, *b.local.args[4:]])
        ins = tuple(Ref("in", i) for i in range(len(define.ins)))
        b.steps.append(RunStep(define, ins, (Ref("out", 0), Ref("out", 1))))
    whole = {(0, axis) for axis in classes}
    if reduction == MEAN:
        for axis in rows:
            b.reduce(axis, "sum", target, (Ref("out", 1), weight))
            whole |= {(0, axis), (1, axis)}
        divide = Define(0, "aten::div_.Tensor", [In(0), In(1)], {}, [loss, weight], [], writes=(0,))
        b.steps.append(RunStep(divide, (Ref("out", 0), Ref("out", 1)), ()))
    return b.lowered(whole)


def _nll_of_classes(b: Builder, axis: int) -> None:
    logs, target = b.local.ins[0], b.local.ins[1]
    loss, weight = b.result(0), b.result(1)
    size, ignored = target.size, b.local.args[4]
    counted = b.run("ne.Scalar", [In(0), ignored], [(Ref("in", 1), target)], dense(size, "bool"))
    skipped = b.run("logical_not", [In(0)], [counted], dense(size, "bool"))
    named = b.run("masked_fill.Scalar", [In(0), In(1), 0], [(Ref("in", 1), target), skipped], dense(size, "int64"))
    own, outside = _own_rows(b, named, axis, logs.size[-1])
    outside = b.run("logical_or", [In(0), In(1)], [outside, skipped], dense(size, "bool"))
    columns = _with_dim(own)
    found = b.run("gather", [In(0), -1, In(1)], [(Ref("in", 0), logs), columns], dense(columns[1].size, logs.dtype))
    negative = b.run("neg", [In(0)], [(found[0], dense(size, logs.dtype))], dense(size, logs.dtype))
    if b.local.args[3] == NONE:
        b.run("masked_fill.Scalar", [In(0), In(1), 0], [negative, outside], loss, Ref("out", 0))
        _filled(b, "zeros", weight, Ref("out", 1))
    else:
        losses = b.run("masked_fill.Scalar", [In(0), In(1), 0], [negative, outside], dense(size, logs.dtype))
        b.run("sum", [In(0)], [losses], loss, Ref("out", 0))
        counts = b.cast(counted, weight.dtype)
        b.run("sum", [In(0)], [counts], weight, Ref("out", 1))
    b.reduce(axis, "sum", (Ref("out", 0), loss))


def _with_dim(value: tuple[Ref, Geometry]) -> tuple[Ref, Geometry]:
    """The value with a dim of size 1 behind its own."""
    g = value[1]
    return value[0], msgspec.structs.replace(g, size=(*g.size, 1), stride=(*g.stride, 1))


def _nll_backward(b: Builder) -> Lowered | None:
    classes = b.axes("c")
    if not classes:
        return None
    grad, logs, target, weight = b.local.ins
    out, size, ignored = b.result(0), b.local.ins[2].size, b.local.args[5]
    skipped = b.run("eq.Scalar", [In(0), ignored], [(Ref("in", 2), target)], dense(size, "bool"))
    named = b.run("masked_fill.Scalar", [In(0), In(1), 0], [(Ref("in", 2), target), skipped], dense(size, "int64"))
    own, outside = _own_rows(b, named, classes[0], logs.size[-1])
    outside = b.run("logical_or", [In(0), In(1)], [outside, skipped], dense(size, "bool"))
    share: tuple[Ref, Geometry] = Ref("in", 0), grad
    if b.local.args[4] == MEAN:
        share = b.run("div.Tensor", [In(0), In(1)], [share, (Ref("in", 3), weight)], dense(grad.size, grad.dtype))
    share = b.run("neg", [In(0)], [share], dense(grad.size, grad.dtype))
    rows = share[0], msgspec.structs.replace(share[1], size=size, stride=share[1].stride or (0,) * len(size), offset=0)
    rows = b.run("masked_fill.Scalar", [In(0), In(1), 0], [rows, outside], dense(size, grad.dtype))
    zeros = b.run("zeros_like", [In(0)], [(Ref("in", 1), logs)], dense(out.size, out.dtype))
    b.run("scatter.src", [In(0), -1, In(1), In(2)], [zeros, _with_dim(own), _with_dim(rows)], out, Ref("out", 0))
    return b.lowered()


# -- random numbers: every worker draws all of them and keeps its own ------------------------------------------------------


def _dropout(b: Builder) -> Lowered | None:
    whole, kept, out = b.whole_result(0), b.whole_result(1), b.result(0)
    dims = len(whole.size)
    full, full_mask = dense(whole.size, whole.dtype), dense(kept.size, kept.dtype)
    ones = _filled(b, "ones", full)
    drawn, drawn_mask = b.temporary(), b.temporary()
    define = Define(0, b.original.op, b.original.args, {}, [full], [full, full_mask], draws=True)
    numbers = tuple(range(_numbers(b.original)))
    b.steps.append(RunStep(define, (ones[0],), (drawn, drawn_mask), numbers))
    own = b.slice((drawn, full), dims)
    b.slice((drawn_mask, full_mask), dims, Ref("out", 1))
    b.run("mul.Tensor", [In(0), In(1)], [(Ref("in", 0), b.local.ins[0]), own], out, Ref("out", 0))
    return b.lowered()


def _draw(b: Builder) -> Lowered | None:
    """Draws into an operand (`normal_`), or makes a tensor like it (`randn_like`)."""
    original = b.original
    numbers = tuple(range(_numbers(original)))
    full = dense(original.ins[0].size, original.ins[0].dtype)
    dims = len(full.size)
    blank = _filled(b, "empty.memory_format", full)
    if original.writes:
        define = msgspec.structs.replace(original, call=0, ins=[full])
        b.steps.append(RunStep(define, (blank[0],), (), numbers))
        own = b.slice(blank, dims)
        copy = Define(0, "aten::copy_", [In(0), In(1)], {}, [b.local.ins[0], own[1]], [], writes=(0,))
        b.steps.append(RunStep(copy, (Ref("in", 0), own[0]), ()))
        return b.lowered()
    whole, out = b.whole_result(0), b.result(0)
    made = b.temporary()
    define = msgspec.structs.replace(original, call=0, ins=[full], outs=[dense(whole.size, whole.dtype)])
    b.steps.append(RunStep(define, (blank[0],), (made,), numbers))
    own = b.slice((made, dense(whole.size, whole.dtype)), dims)
    b.run("clone", [In(0)], [own], out, Ref("out", 0))
    return b.lowered()


def _filled(b: Builder, op: str, g: Geometry, to: Ref | None = None) -> tuple[Ref, Geometry]:
    made = to or b.temporary()
    kwargs: dict[str, Any] = {"dtype": wire.Dtype(g.dtype), "device": wire.Device()}
    b.steps.append(RunStep(Define(0, f"aten::{op}", [list(g.size)], kwargs, [], [g]), (), (made,)))
    return made, g


def _numbers(define: Define) -> int:
    """How many numbers vary from call to call."""
    flat: list[Any] = []
    for value in (*define.args, *define.kwargs.values()):
        flat += value if isinstance(value, list) else [value]
    return sum(isinstance(value, wire.Number) for value in flat)


LOWERINGS: dict[str, Callable[[Builder], Lowered | None]] = {
    "embedding": _embedding,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "largest": _largest,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "softmax_backward": _softmax_backward,
    "log_softmax_backward": _log_softmax_backward,
    "nll": _nll,
    "nll_backward": _nll_backward,
    "dropout": _dropout,
    "draw": _draw,
}
