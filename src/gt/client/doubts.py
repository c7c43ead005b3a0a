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
NOT_OF_FLOATS = ("aten::bitwise_", "aten::__", "aten::gcd", "aten::lcm", "aten::masked_")
"""How the names of operators begin that take no operands of floats alone, whatever inference says."""
INDICES = {"index", "indices", "target", "targets"}
"""Arguments whose values may be out of range, which is told when something that depends on it is fetched."""
NO_INDICES = ("aten::mse_", "aten::huber_", "aten::smooth_l1_", "aten::soft_margin_", "aten::binary_cross_entropy")
"""How the names of operators begin whose targets are no indices, integers or not."""
TRIED = {
    f"aten::{name}{in_place}"
    for name in (
        "index_add", "index_copy", "index_fill", "index_put", "index_reduce", "scatter", "scatter_add", "scatter_reduce",
        "put",
    )
    for in_place in ("", "_")
} | {
    f"aten::{name}"
    for name in (
        "index", "index_select", "gather", "take", "embedding", "nll_loss_forward", "nll_loss2d_forward", "searchsorted",
        "bucketize",
    )
}  # fmt: skip
"""Operators with indices that a CPU checks thoroughly: they can be tried in this process without harm."""


def about(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], key: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The kind of call whose first one asks the worker whether it takes it. None: no doubt."""
    specs = [k for k in key if type(k) is Geometry]
    name = op._schema.name
    if not op._schema.returns:
        return None
    if not specs:
        return key if any(k is complex for k in key) else None
    if name in TRIED:
        return key if _fails_on_zeros(op, args, kwargs) else None
    if any(0 in spec.size for spec in specs):
        return key
    dtypes = tuple([spec.dtype for spec in specs])
    if name == "aten::convolution":  # one of each setting, were it for inputs of many sizes
        return (*dtypes, len(specs[0].size), *specs[0].size[1:2], *key[1:])
    numbers = _numbers(op, args)
    odd = any(d is not dtypes[0] or d not in TAKEN for d in dtypes) or bool in numbers or complex in numbers
    doubtful = (odd or name.startswith(NOT_OF_FLOATS)) and not _takes_indices(op, args, kwargs)
    ones = tuple([n == 1 for n in specs[0].size])  # for which operators have short ways that check less
    return (*dtypes, *numbers, ones) if doubtful else None


def _numbers(op: OpOverload, args: tuple[Any, ...]) -> tuple[type, ...]:
    """The kinds of the numbers that stand where tensors may."""
    given = zip(op._schema.arguments, args, strict=False)
    return tuple([type(a) for p, a in given if not isinstance(a, Tensor) and str(p.type) in ("Tensor", "number")])


def _takes_indices(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether asking the worker could find fault with values, of indices, instead of dtypes."""
    if op._schema.name.startswith(NO_INDICES):
        return False
    given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
    read = [a.name for a in op._schema.arguments if a.name in INDICES and a.alias_info is None]
    tensors = calls.tensors_in(given.get(name) for name in read)
    return any(not t.is_floating_point() for t in tensors)


def _fails_on_zeros(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a CPU refuses small operands that stand for the real ones: their dtypes, and sizes in the same order."""
    sizes = {n for t in calls.tensors_in((*args, *kwargs.values())) for n in t.shape if n > 1}
    small = {0: 0, 1: 1} | {n: rank for rank, n in enumerate(sorted(sizes), 2)}
    try:
        with torch.no_grad(), torch.utils._python_dispatch._disable_current_modes():
            op(*_standing_for(args, small), **_standing_for(kwargs, small))
    except Exception:
        return True
    return False


def _standing_for(value: Any, small: dict[int, int]) -> Any:
    """Zeros, which any index may be, and masks of ones, so that no dim vanishes."""
    if isinstance(value, Tensor):
        size = [small[n] for n in value.shape]
        return torch.full(size, value.dtype is torch.bool, dtype=value.dtype, device="cpu")
    if isinstance(value, (list, tuple)):
        return [_standing_for(v, small) for v in value]
    if isinstance(value, dict):
        return {k: _standing_for(v, small) for k, v in value.items()}
    return value


def overlaps(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operand that is written may lie over another in a way that PyTorch refuses; one of them stands twice."""
    if op._schema.name in TRIED:
        return True  # these refuse to read what they write, were it the same tensor
    operands = [record.operand(t) for t in calls.tensors_in((*args, *kwargs.values()))]
    written = [record.operand(t) for t in calls.written(op, args, kwargs).values()]
    return any(a == b and _partly(one, other) for a, one, _ in written for b, other, _ in operands)


def _partly(one: Geometry, other: Geometry) -> bool:
    if (one.size, one.stride, one.offset) == (other.size, other.stride, other.offset):
        return False
    dense = all(spec.extent() - spec.offset == spec.size.numel() for spec in (one, other))
    return dense and one.offset < other.extent() and other.offset < one.extent()
