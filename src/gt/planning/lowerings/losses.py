"""Losses by class index, of sharded rows or classes, and the gradients of means."""

from __future__ import annotations

import math

import msgspec

from gt.planning.geometry import dense
from gt.planning.lowerings.builder import Builder, Value, with_dim
from gt.planning.lowerings.indexing import own_rows
from gt.planning.plan import Digit, Lowered, Ref, RunStep
from gt.wire.instructions import Define, In

NONE, MEAN, SUM = 0, 1, 2


def nll(b: Builder) -> Lowered | None:
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
    own, outside = _own_classes(b, (Ref("in", 1), target), skipped, axis, logs.size[-1])
    columns = with_dim(own)
    found = b.run("gather", [In(0), -1, In(1)], [(Ref("in", 0), logs), columns], dense(columns[1].size, logs.dtype))
    negative = b.run("neg", [In(0)], [(found[0], dense(size, logs.dtype))], dense(size, logs.dtype))
    if b.local.args[3] == NONE:
        b.run("masked_fill.Scalar", [In(0), In(1), 0], [negative, outside], loss, Ref("out", 0))
        b.filled("zeros", weight, Ref("out", 1))
    else:
        losses = b.run("masked_fill.Scalar", [In(0), In(1), 0], [negative, outside], dense(size, logs.dtype))
        b.run("sum", [In(0)], [losses], loss, Ref("out", 0))
        counts = b.cast(counted, weight.dtype)
        b.run("sum", [In(0)], [counts], weight, Ref("out", 1))
    b.reduce(axis, "sum", (Ref("out", 0), loss))


def _own_classes(b: Builder, target: Value, skipped: Value, axis: int, classes: int) -> tuple[Value, Value]:
    """Targets as indices into this worker's `classes`, and whether each is another worker's or `skipped`."""
    size = target[1].size
    named = b.run("masked_fill.Scalar", [In(0), In(1), 0], [target, skipped], dense(size, "int64"))
    own, outside = own_rows(b, named, axis, classes)
    return own, b.run("logical_or", [In(0), In(1)], [outside, skipped], dense(size, "bool"))


def nll_backward(b: Builder) -> Lowered | None:
    """Classes sharded: each worker writes the gradients of the rows whose class is its own."""
    classes = b.axes("c")
    if not classes:
        return None
    grad, logs, target, weight = b.local.ins
    out, size, ignored = b.result(0), b.local.ins[2].size, b.local.args[5]
    skipped = b.run("eq.Scalar", [In(0), ignored], [(Ref("in", 2), target)], dense(size, "bool"))
    own, outside = _own_classes(b, (Ref("in", 2), target), skipped, classes[0], logs.size[-1])
    share: Value = Ref("in", 0), grad
    if b.local.args[4] == MEAN:
        share = b.run("div.Tensor", [In(0), In(1)], [share, (Ref("in", 3), weight)], dense(grad.size, grad.dtype))
    share = b.run("neg", [In(0)], [share], dense(grad.size, grad.dtype))
    rows = share[0], msgspec.structs.replace(share[1], size=size, stride=share[1].stride or (0,) * len(size), offset=0)
    rows = b.run("masked_fill.Scalar", [In(0), In(1), 0], [rows, outside], dense(size, grad.dtype))
    zeros = b.run("zeros_like", [In(0)], [(Ref("in", 1), logs)], dense(out.size, out.dtype))
    b.run("scatter.src", [In(0), -1, In(1), In(2)], [zeros, with_dim(own), with_dim(rows)], out, Ref("out", 0))
    return b.lowered()


def mean_backward(b: Builder) -> Lowered | None:
    """The local call divides by the number of its own elements; each worker's are as many."""
    parts = math.prod(b.original.ins[1].size) // math.prod(b.local.ins[1].size)
    grad, *others = b.local.ins
    share = b.run("div.Scalar", [In(0), parts], [(Ref("in", 0), grad)], dense(grad.size, grad.dtype))
    define = msgspec.structs.replace(b.local, ins=[share[1], *others])
    ins = (share[0], *(Ref("in", i) for i in range(1, len(define.ins))))
    b.steps.append(RunStep(define, ins, (Ref("out", 0),), b.numbers))
    return b.lowered()
