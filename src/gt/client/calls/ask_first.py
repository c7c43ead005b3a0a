"""Calls that inference accepts and a worker may refuse. The worker is asked first, so that PyTorch's error is raised at the
call."""

from __future__ import annotations

from typing import Any

import torch

from gt.client.calls import dry_run, schemas, templates
from gt.client.calls.schemas import OpOverload
from gt.client.session.configured import configured
from gt.client.stream import operands
from gt.client.stream.geometry import TensorSpec
from gt.client.stream.isolation import untraced

Tensor = torch.Tensor
TAKEN = (torch.float32, torch.float64)
"""Dtypes that nearly every operator accepts, if all operands have the same one."""
MADE = {
    None, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64,
}  # fmt: skip
"""Dtypes in which every factory makes tensors."""
OF_ALL_DTYPES = {f"aten::{name}" for name in ("empty", "empty_strided", "full", "ones", "scalar_tensor", "zeros")}
"""Factories that know all dtypes."""
NOT_OF_FLOATS = ("aten::bitwise_", "aten::__", "aten::gcd", "aten::lcm", "aten::masked_")
"""Prefixes of operators that refuse operands which are all floats, whatever inference says."""
INDICES = {"index", "indices", "target", "targets"}
"""Arguments whose values may be out of range: the error is raised when something that depends on the call is fetched."""
MAY_BE_NUMBERS = {"Tensor", "number", "Optional[number]"}
NO_INDICES = ("aten::mse_", "aten::huber_", "aten::smooth_l1_", "aten::soft_margin_", "aten::binary_cross_entropy")
"""Prefixes of operators whose targets are not indices, even if they are integers."""
FACTORISING = {
    f"aten::{name}"
    for name in (
        "_linalg_check_errors", "_linalg_eigh", "_linalg_eigvals", "_linalg_svd", "cholesky", "cholesky_inverse",
        "linalg_eig", "linalg_eigvals", "linalg_lstsq", "linalg_pinv",
    )
}  # fmt: skip
"""Operators (all overloads) that look whether a factorisation has succeeded."""


def every_time(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether each call is asked: it looks whether a factorisation has succeeded, for which PyTorch waits on an accelerator
    too."""
    if configured.on_shapes:
        return False
    return op._schema.name in FACTORISING or _given(op, args, kwargs).get("check_errors") is True


def _given(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    return dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs


def about(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], key: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The kind of a call that is doubtful: the first call of a kind asks the worker. None if there is no doubt."""
    specs = [k for k in key if type(k) is TensorSpec]
    name = op._schema.name
    if not op._schema.returns or configured.on_shapes:
        return None
    if name in dry_run.INDEXED:
        return key if dry_run.fails(op, args, kwargs) else None
    if not specs:
        return _about_factory(name, kwargs.get("dtype"), key)
    if any(0 in spec.size for spec in specs):
        return key
    dtypes = tuple([spec.dtype for spec in specs])
    if name == "aten::convolution":  # once for each setting, whatever the sizes of the inputs
        return (*dtypes, len(specs[0].size), *specs[0].size[1:2], *key[1:])
    numbers = _numbers(op, args)
    odd = any(d is not dtypes[0] or d not in TAKEN for d in dtypes) or bool in numbers or complex in numbers
    doubtful = (odd or name.startswith(NOT_OF_FLOATS)) and not _takes_indices(op, args, kwargs)
    ones = tuple([n == 1 for n in specs[0].size])  # dims of size 1, for which operators have shortcuts that check less
    return (*dtypes, *numbers, ones) if doubtful else None


def _about_factory(name: str, dtype: torch.dtype | None, key: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if any(k is complex for k in key):
        return key
    return (dtype,) if dtype not in MADE and name not in OF_ALL_DTYPES else None


def _numbers(op: OpOverload, args: tuple[Any, ...]) -> tuple[type, ...]:
    """The types of the numbers of a call."""
    given = zip(op._schema.arguments, args, strict=False)
    return tuple([type(a) for p, a in given if not isinstance(a, Tensor) and str(p.type) in MAY_BE_NUMBERS])


def _takes_indices(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the worker might refuse the values of indices rather than the dtypes."""
    if op._schema.name.startswith(NO_INDICES):
        return False
    given = _given(op, args, kwargs)
    read = [a.name for a in op._schema.arguments if a.name in INDICES and a.alias_info is None]
    tensors = templates.tensors_in(given.get(name) for name in read)
    return any(not t.is_floating_point() for t in tensors)


@untraced
def overlaps(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a written operand may overlap another one in a way that PyTorch refuses. Called when one storage appears
    twice."""
    if op._schema.name in dry_run.INDEXED:
        return True  # these refuse to read what they write, even if it is the same tensor
    given = [operands.operand(t) for t in templates.tensors_in((*args, *kwargs.values()))]
    written = [operands.operand(t) for t in schemas.written(op, args, kwargs).values()]
    return any(a == b and _partly(one, other) for a, one, _ in written for b, other, _ in given)


def _partly(one: TensorSpec, other: TensorSpec) -> bool:
    if (one.size, one.stride, one.offset) == (other.size, other.stride, other.offset):
        return False
    dense = all(spec.extent() - spec.offset == spec.size.numel() for spec in (one, other))
    return dense and one.offset < other.extent() and other.offset < one.extent()
