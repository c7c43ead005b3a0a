"""Softmax over a sharded dim, and its gradient."""

from __future__ import annotations

from typing import Any

from gt.planning.geometry import dense
from gt.planning.lowerings.builder import Builder, Value, dim_of
from gt.planning.plan import Digit, Lowered, Ref
from gt.wire.instructions import Geometry, In

HALF = ("float16", "bfloat16")
"""dtypes in which sums over a class dim are not kept: the CPU's own kernels compute these in float32."""


def _sharded(b: Builder) -> tuple[list[int], int, Geometry] | None:
    """The axes along which the dim is sharded, the dim, and the local result; None if the dim is not sharded."""
    out = b.result(0)
    dims = len(out.size)
    position = 2 if len(b.local.ins) == 2 else 1
    dim = dim_of(b.local.args[position], dims)
    axes = [a for a, c in enumerate(b.choice) if isinstance(c, Digit) and dim_of(c.label, dims) == dim]
    return (axes, dim, out) if axes else None


def _summed(b: Builder, value: Value, dim: int, axes: list[int]) -> Value:
    size = value[1].size
    total = dense((*size[:dim], 1, *size[dim + 1 :]), value[1].dtype)
    made = b.run("sum.dim_IntList", [In(0), [dim], True], [value], total)
    for axis in axes:
        b.reduce(axis, "sum", made)
    return made


def _in_full(b: Builder, value: Value) -> Value:
    return b.cast(value, "float32") if value[1].dtype in HALF else value


def _finish(b: Builder, op: str, ins: list[Value], out: Geometry) -> Lowered:
    args: list[Any] = [In(i) for i in range(len(ins))]
    dtype = ins[0][1].dtype
    if dtype == out.dtype:
        b.run(op, args, ins, out, Ref("out", 0))
    else:
        b.cast(b.run(op, args, ins, dense(out.size, dtype)), out.dtype, Ref("out", 0))
    return b.lowered()


def softmax(b: Builder) -> Lowered | None:
    """The largest element and the sum of the powers are reduced over the workers."""
    return _soft(b, logarithm=False)


def log_softmax(b: Builder) -> Lowered | None:
    """The same, with the logarithm of the sum."""
    return _soft(b, logarithm=True)


def _soft(b: Builder, logarithm: bool) -> Lowered | None:
    found = _sharded(b)
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
        return _finish(b, "div.Tensor", [powers, total], out)
    return _finish(b, "sub.Tensor", [shifted, b.run("log", [In(0)], [total], total[1])], out)


def softmax_backward(b: Builder) -> Lowered | None:
    """`(grad - sum(grad * result)) * result`, with the sum over the workers."""
    found = _sharded(b)
    if found is None:
        return None
    axes, dim, out = found
    grad, result = (_in_full(b, (Ref("in", i), b.local.ins[i])) for i in (0, 1))
    product = b.run("mul.Tensor", [In(0), In(1)], [grad, result], dense(out.size, grad[1].dtype))
    rest = b.run("sub.Tensor", [In(0), In(1)], [grad, _summed(b, product, dim, axes)], product[1])
    return _finish(b, "mul.Tensor", [rest, result], out)


def log_softmax_backward(b: Builder) -> Lowered | None:
    """`grad - exp(result) * sum(grad)`, with the sum over the workers."""
    found = _sharded(b)
    if found is None:
        return None
    axes, dim, out = found
    grad, result = (_in_full(b, (Ref("in", i), b.local.ins[i])) for i in (0, 1))
    powers = b.run("exp", [In(0)], [result], dense(out.size, grad[1].dtype))
    product = b.run("mul.Tensor", [In(0), In(1)], [powers, _summed(b, grad, dim, axes)], powers[1])
    return _finish(b, "sub.Tensor", [grad, product], out)
