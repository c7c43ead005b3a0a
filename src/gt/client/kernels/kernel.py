"""The kernel of an overload: the general one for nearly all, wrapped or replaced for a few kinds of operators."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.graph import increment_version
from torch.utils import deterministic

from gt.client.calls import schemas
from gt.client.calls.defined import UNFORESEEN
from gt.client.calls.schemas import OpOverload
from gt.client.kernels.general import Kernel, general_kernel
from gt.client.session.process import process
from gt.client.session.random_sequence import sequence
from gt.client.stream import operands, sites
from gt.client.stream.definitions import definitions
from gt.client.stream.segment import recorder
from gt.wire import instructions as wire

Tensor = torch.Tensor
_create = torch._C._acc.create_empty_tensor


def kernel(op: OpOverload) -> Kernel:
    """The kernel of an overload."""
    made = _remote_kernel(op)
    likes = op._schema.name.startswith("aten::new_") or op._schema.name.endswith("_like")
    return _placing_kernel(op, made) if likes else made


def _remote_kernel(op: OpOverload) -> Kernel:
    cache = definitions.new_cache()
    general = general_kernel(op, cache)
    kinds = [f"{a.type}?" if a.has_default_value() else str(a.type) for a in op._schema.arguments if not a.kwarg_only]
    named = {a.name for a in op._schema.arguments if a.kwarg_only}
    one_result = [str(r.type) for r in op._schema.returns] == ["Tensor"] and schemas.fresh_results(op)
    if one_result and kinds in (["Tensor", "Tensor"], ["Tensor", "number"]) and named <= {"alpha"}:
        return _two_operand_kernel(general, cache)
    if op._schema.name.startswith("aten::_foreach_") and op._schema.is_mutable:
        return _counting_kernel(general)
    if schemas.draws(op):
        return _drawing_kernel(general)
    return _filling_kernel(general) if op._schema.name in UNINITIALIZED else general


def _placing_kernel(op: OpOverload, remote: Kernel) -> Kernel:
    """For operators that make a tensor like another one, possibly on another device."""

    def run(like: Tensor, *args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is None or device.type == "remote":
            return remote(like, *args, **kwargs)
        return op(torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device), *args, **kwargs)

    return run


def _drawing_kernel(general: Kernel) -> Kernel:
    """For operators that draw from the session's generator unless they are given another."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("generator") is None and not (args and isinstance(args[-1], torch.Generator)):
            sequence.to_worker()
        return general(*args, **kwargs)

    return run


UNINITIALIZED = {
    f"aten::{name}" for name in ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided")
}


def _filling_kernel(general: Kernel) -> Kernel:
    """For operators that leave their result uninitialized, which PyTorch fills if it is to be deterministic."""

    def run(*args: Any, **kwargs: Any) -> Any:
        made = general(*args, **kwargs)
        if torch._C._get_deterministic_algorithms() and deterministic.fill_uninitialized_memory:  # type: ignore[attr-defined]
            unknown = made.is_floating_point() or made.is_complex()
            made.fill_(math.nan if unknown else 1 if made.dtype is torch.bool else torch.iinfo(made.dtype).max)
        return made

    return run


def _counting_kernel(general: Kernel) -> Kernel:
    """For operators that must count the versions of what they write themselves; a backward pass compares these."""

    def run(written: list[Tensor], *args: Any, **kwargs: Any) -> Any:
        result = general(written, *args, **kwargs)
        increment_version(t for t in written if not t.is_inference())
        return result

    return run


def _two_operand_kernel(general: Kernel, cache: dict[Any, Any]) -> Kernel:
    """The fast path for the commonest calls: two operands with cached geometries, or one and a number."""
    new_id, Holder, here, flush = operands.new_id, operands.Holder, sites.here, process.flush
    find = cache.get

    def run(a: Any, b: Any, alpha: Any = None) -> Any:
        if alpha is not None:
            return general(a, b, alpha=alpha)
        try:
            first, first_kind, owner = a._gt
            second_kind: Any = type(b)
            if second_kind is float or second_kind is int:
                second = b
            else:
                second, second_kind, second_owner = b._gt
                if second_owner != id(b):
                    return general(a, b)
        except AttributeError:  # a number that stands first, a complex number, a boolean
            return general(a, b)
        call = find((first_kind, second_kind), UNFORESEEN)
        spec = call.plain
        if spec is None or owner != id(a):
            return general(a, b)
        out = _create(spec.size, spec.dtype)
        number = new_id()
        out.untyped_storage()._gt = Holder(number, spec)
        out._gt = (number, spec, id(out))
        segment = recorder.segment
        segment.append(wire.Op(call.number, number, (first, second), here()))
        if len(segment) >= segment.limit:
            flush()
        return out

    return run
