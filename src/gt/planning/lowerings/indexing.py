"""Reading and writing where indices say, in a dim of which each worker has a run, such as a vocabulary."""

from __future__ import annotations

import msgspec

from gt.planning.geometry import dense
from gt.planning.lowerings.builder import Builder, Value, dim_of, with_dim
from gt.planning.plan import Lowered, Ref, RunStep
from gt.wire.instructions import In


def own_rows(b: Builder, index: Value, axis: int, rows: int) -> tuple[Value, Value]:
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


def embedding(b: Builder) -> Lowered | None:
    """Rows of other workers are zeros, for the sum over the workers."""
    axes = b.axes("v")
    if not axes:
        return None
    weight, index = b.local.ins[0], b.local.ins[1]
    out = b.result(0)
    own, outside = own_rows(b, (Ref("in", 1), index), axes[0], weight.size[0])
    found = b.run("embedding", [In(0), In(1)], [(Ref("in", 0), weight), own], dense(out.size, out.dtype))
    b.run("masked_fill.Scalar", [In(0), In(1), 0], [found, with_dim(outside)], out, Ref("out", 0))
    return b.lowered()


def gather(b: Builder) -> Lowered | None:
    """Elements of other workers are zeros, for the sum over the workers."""
    axes = b.axes("run")
    if not axes:
        return None
    source, index, out = b.local.ins[0], b.local.ins[1], b.result(0)
    at = dim_of(b.local.args[1], len(source.size))
    own, outside = own_rows(b, (Ref("in", 1), index), axes[0], source.size[at])
    found = b.run("gather", [In(0), at, In(1)], [(Ref("in", 0), source), own], dense(out.size, out.dtype))
    b.run("masked_fill.Scalar", [In(0), In(1), 0], [found, outside], out, Ref("out", 0))
    return b.lowered()


def scatter_add(b: Builder) -> Lowered | None:
    """In place or not: what belongs to another worker's part is added as zeros."""
    axes = b.axes("run")
    if not axes:
        return None
    target, index, source = b.local.ins
    at = dim_of(b.local.args[1], len(target.size))
    own, outside = own_rows(b, (Ref("in", 1), index), axes[0], target.size[at])
    seen = msgspec.structs.replace(source, size=index.size)  # `src` may be larger than the index
    added = b.run("masked_fill.Scalar", [In(0), In(1), 0], [(Ref("in", 2), seen), outside], dense(index.size, source.dtype))
    define = msgspec.structs.replace(b.local, args=[In(0), at, In(1), In(2)], ins=[target, own[1], added[1]])
    outs = () if define.writes else (Ref("out", 0),)
    b.steps.append(RunStep(define, (Ref("in", 0), own[0], added[0]), outs))
    return b.lowered()
