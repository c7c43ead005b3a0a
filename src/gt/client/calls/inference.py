"""Inference on meta tensors: what an operator makes and what it changes in place, without asking the worker."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from gt.client.calls import uncompiled
from gt.client.calls.corrections import corrected
from gt.client.calls.defined import Fresh, WrittenOperand
from gt.client.calls.schemas import OpOverload, fresh_results, op_name
from gt.client.stream import geometry
from gt.client.stream.geometry import TensorSpec
from gt.client.stream.isolation import isolated


@dataclass(slots=True)
class Inferred:
    """What a call makes and returns, as inferred."""

    outs: list[TensorSpec | None]
    """The fresh results in order; None for an undefined one."""
    shape: Any
    """What the operator returns: `Fresh` and `WrittenOperand` in the nesting of its results."""


_prepare = functools.cache(uncompiled.install)


def infer(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], specs: list[TensorSpec]) -> Inferred:
    """Run the operator on meta tensors. Raises what it raises there, and NotImplementedError for operands that it
    resizes."""
    _prepare()
    with torch.no_grad(), isolated():
        return _inferred(op, args, kwargs, specs)


def _inferred(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], specs: list[TensorSpec]) -> Inferred:
    metas = iter([spec.meta() for spec in specs])
    used: list[torch.Tensor] = []

    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            used.append(next(metas))
            return used[-1]
        if isinstance(value, (list, tuple)):
            return [convert(v) for v in value]
        return torch.device("meta") if isinstance(value, torch.device) else value

    meta_args = [convert(a) for a in args]
    meta_kwargs = {k: convert(v) for k, v in kwargs.items()}
    result = _wanted(op, args, corrected(op_name(op), op)(*meta_args, **meta_kwargs))
    outs: list[TensorSpec | None] = []
    positions = {id(t): i for i, t in enumerate(used)}
    shape = _shape(result, positions, outs, fresh=fresh_results(op))
    if any(_differs(geometry.of(t), spec) for t, spec in zip(used, specs, strict=True)):
        raise NotImplementedError("only the worker knows the layout of a result that is resized")
    return Inferred(outs, shape)


def _wanted(op: OpOverload, args: tuple[Any, ...], result: Any) -> Any:
    """The results without the gradients that an `output_mask` leaves out, which inference makes anyway."""
    mask = next((a for p, a in zip(op._schema.arguments, args, strict=False) if p.name == "output_mask"), None)
    return result if mask is None else tuple(r if wanted else None for r, wanted in zip(result, mask, strict=True))


def _differs(now: TensorSpec, before: TensorSpec) -> bool:
    return now is not before and now.to_wire() != before.to_wire()


def _shape(result: Any, positions: dict[int, int], outs: list[TensorSpec | None], fresh: bool) -> Any:
    if isinstance(result, torch.Tensor):
        position = positions.get(id(result))
        if position is not None and not fresh:
            return WrittenOperand(position)
        spec = geometry.of(result)
        outs.append(geometry.intern(spec.size, _own_stride(result, spec), 0, spec.dtype))
        return Fresh(len(outs) - 1)
    if isinstance(result, (list, tuple)):
        made = [_shape(r, positions, outs, fresh) for r in result]
        return tuple(made) if isinstance(result, tuple) else made
    if result is None:
        return None
    raise NotImplementedError("a result that is not a tensor")


def _own_stride(result: torch.Tensor, spec: TensorSpec) -> tuple[int, ...]:
    """The strides of a fresh result. An expanded one (stride 0) gets contiguous elements of its own."""
    if any(s == 0 and n > 1 for n, s in zip(spec.size, spec.stride, strict=True)):
        return geometry.contiguous_stride(spec.size)
    return spec.stride
