"""Calls that inference lets pass and a worker may not take, so that PyTorch's error is raised at the call."""

from __future__ import annotations

from typing import Any

import torch

from gt.client import calls, record
from gt.client.calls import OpOverload
from gt.client.geometry import Geometry

Tensor = torch.Tensor
TAKEN = (torch.float32, torch.float64)
"""Dtypes of which nearly every operator takes any number, if they are the same."""
NOT_OF_FLOATS = ("aten::bitwise_", "aten::__", "aten::gcd", "aten::lcm")
"""How the names of operators begin that take no floating-point operands, whatever inference says."""
INDICES = {"index", "indices", "target", "targets"}
"""Arguments whose values may be out of range, which is told when something that depends on it is fetched."""
NO_INDICES = ("aten::mse_", "aten::huber_", "aten::smooth_l1_", "aten::soft_margin_", "aten::binary_cross_entropy")
"""How the names of operators begin whose targets are no indices, integers or not."""
TRIED = {
    f"aten::{name}{in_place}"
    for name in ("index_add", "index_copy", "index_fill", "index_put", "index_reduce", "scatter", "scatter_add", "put")
    for in_place in ("", "_")
} | {
    f"aten::{name}"
    for name in ("index", "index_select", "gather", "take", "embedding", "nll_loss_forward", "nll_loss2d_forward")
}
"""Operators with indices that a CPU checks thoroughly: they can be tried in this process without harm."""


def about(op: OpOverload, key: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The kind of call whose first one is to be tried: a mix of dtypes, or operands without elements. None: no doubt."""
    specs = [k for k in key if type(k) is Geometry]
    if not specs or not op._schema.returns:
        return None
    if any(0 in spec.size for spec in specs):
        return key
    dtypes = tuple([spec.dtype for spec in specs])
    imaginary = tuple([k for k in key if k is complex])
    odd = any(d is not dtypes[0] or d not in TAKEN for d in dtypes) or imaginary
    return (*dtypes, *imaginary) if odd or op._schema.name.startswith(NOT_OF_FLOATS) or _has_indices(op) else None


def _has_indices(op: OpOverload) -> bool:
    schema = op._schema
    return not schema.name.startswith(NO_INDICES) and not INDICES.isdisjoint(a.name for a in schema.arguments)


def takes_indices(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether asking the worker could find fault with values, of indices, instead of dtypes."""
    if not _has_indices(op):
        return False
    given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
    tensors = calls.tensors_in(v for name, v in given.items() if name in INDICES)
    return any(not t.is_floating_point() for t in tensors)


def try_dtypes(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise what a CPU says of these dtypes, tried on zeros of at most one element that stand for the operands."""

    def attempt(floating: Any = None, integral: Any = None) -> Exception | None:
        try:
            op(*_small(args, floating, integral), **_small(kwargs, floating, integral))
        except Exception as error:
            return error
        return None

    error = attempt() if op._schema.name in TRIED else None
    usual = [(torch.float32, torch.int64), (torch.float32, torch.float32)]
    if error is not None and any(attempt(*dtypes) is None for dtypes in usual):
        raise error  # else it is not the dtypes: operands of one element can't stand for these


def _small(value: Any, floating: torch.dtype | None, integral: torch.dtype | None) -> Any:
    """Zeros of at most one element for tensors, of these dtypes instead of theirs."""
    if isinstance(value, Tensor):
        dtype = value.dtype
        if dtype is not torch.bool:
            dtype = (floating if dtype.is_floating_point or dtype.is_complex else integral) or dtype
        return torch.zeros([min(n, 1) for n in value.shape], dtype=dtype, device="cpu")
    if isinstance(value, (list, tuple)):
        return [_small(v, floating, integral) for v in value]
    if isinstance(value, dict):
        return {k: _small(v, floating, integral) for k, v in value.items()}
    return value


def overlaps(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operand that is written lies partly over another, which PyTorch refuses."""
    operands = [record.operand(t) for t in calls.tensors_in((*args, *kwargs.values()))]
    written = [record.operand(t) for t in calls.written(op, args, kwargs).values()]
    return any(a == b and _partly(one, other) for a, one, _ in written for b, other, _ in operands)


def _partly(one: Geometry, other: Geometry) -> bool:
    if (one.size, one.stride, one.offset) == (other.size, other.stride, other.offset):
        return False
    dense = all(spec.extent() - spec.offset == spec.size.numel() for spec in (one, other))
    return dense and one.offset < other.extent() and other.offset < one.extent()
