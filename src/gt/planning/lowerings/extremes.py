"""Largest elements over a sharded dim."""

from __future__ import annotations

import math

from gt.planning.geometry import dense
from gt.planning.lowerings.builder import Builder, dim_of
from gt.planning.plan import Lowered, Ref
from gt.planning.rules.reading import floating
from gt.wire.instructions import In


def largest(b: Builder) -> Lowered | None:
    """Largest values, and whether one is NaN, which a collective may lose."""
    reduced = b.original.args[1] if len(b.original.args) > 1 else []
    dims = range(len(b.local.ins[0].size))
    assert isinstance(reduced, list)
    axes = [axis for d in ({dim_of(d, len(dims)) for d in reduced} or dims) for axis in b.axes(d)]
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
