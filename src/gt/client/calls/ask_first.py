"""Calls that inference lets pass and a worker may not take, so that PyTorch's error is raised at the call."""

from __future__ import annotations

from typing import Any

import torch

from gt.client.calls import dry_run, schemas, templates
from gt.client.calls.schemas import OpOverload
from gt.client.stream import operands
from gt.client.stream.geometry import TensorSpec
from gt.client.stream.isolation import untraced

Tensor = torch.Tensor
TAKEN = (torch.float32, torch.float64)
"""Dtypes of which nearly every operator takes any number, if they are the same."""
NOT_OF_FLOATS = ("aten::bitwise_", "aten::__", "aten::gcd", "aten::lcm", "aten::masked_")
"""How the names of operators begin that take no operands of floats alone, whatever inference says."""
INDICES = {"index", "indices", "target", "targets"}
"""Arguments whose values may be out of range, which is told when something that depends on it is fetched."""
MAY_BE_NUMBERS = {"Tensor", "number", "Optional[number]"}
NO_INDICES = ("aten::mse_", "aten::huber_", "aten::smooth_l1_", "aten::soft_margin_", "aten::binary_cross_entropy")
"""How the names of operators begin whose targets are no indices, integers or not."""


def about(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], key: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The kind of call whose first one asks the worker whether it takes it. None: no doubt."""
    specs = [k for k in key if type(k) is TensorSpec]
    name = op._schema.name
    if not op._schema.returns:
        return None
    if name in dry_run.INDEXED:
        return key if dry_run.fails(op, args, kwargs) else None
    if not specs:
        return key if any(k is complex for k in key) else None
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
    """The kinds of the numbers of a call."""
    given = zip(op._schema.arguments, args, strict=False)
    return tuple([type(a) for p, a in given if not isinstance(a, Tensor) and str(p.type) in MAY_BE_NUMBERS])


def _takes_indices(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether asking the worker could find fault with values, of indices, instead of dtypes."""
    if op._schema.name.startswith(NO_INDICES):
        return False
    given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
    read = [a.name for a in op._schema.arguments if a.name in INDICES and a.alias_info is None]
    tensors = templates.tensors_in(given.get(name) for name in read)
    return any(not t.is_floating_point() for t in tensors)


@untraced
def overlaps(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operand that is written may lie over another in a way that PyTorch refuses; one of them stands twice."""
    if op._schema.name in dry_run.INDEXED:
        return True  # these refuse to read what they write, were it the same tensor
    given = [operands.operand(t) for t in templates.tensors_in((*args, *kwargs.values()))]
    written = [operands.operand(t) for t in schemas.written(op, args, kwargs).values()]
    return any(a == b and _partly(one, other) for a, one, _ in written for b, other, _ in given)


def _partly(one: TensorSpec, other: TensorSpec) -> bool:
    if (one.size, one.stride, one.offset) == (other.size, other.stride, other.offset):
        return False
    dense = all(spec.extent() - spec.offset == spec.size.numel() for spec in (one, other))
    return dense and one.offset < other.extent() and other.offset < one.extent()
