"""The general kernel: find the call by its key, make its results, and record one instruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gt.client.calls import ask_first, templates
from gt.client.calls.asking import query, with_generator
from gt.client.calls.defined import UNFORESEEN, DefinedCall, Fresh, WrittenOperand
from gt.client.calls.lifting import lifted, lifted_named
from gt.client.calls.schemas import OpOverload
from gt.client.kernels.learning import Answered, Learner
from gt.client.kernels.signature import LocalOperandError, reader
from gt.client.session import recording
from gt.client.session.process import process
from gt.client.stream import operands, sites
from gt.client.stream.segment import recorder
from gt.wire import instructions as wire

Tensor = torch.Tensor
Kernel = Callable[..., Any]


def general_kernel(op: OpOverload, cache: dict[Any, Any]) -> Kernel:
    """A kernel for any operator, by inference or by a query. `cache`: its calls by their keys."""
    read, learner, find = reader(op), Learner(op, cache), cache.get
    # looked up once: this is the hot path
    Op, create, restride, META = wire.Op, torch._C._acc.create_empty_tensor, operands.restride, operands.META
    new_id, Holder, here, flush = operands.new_id, operands.Holder, sites.here, process.flush

    def run(*args: Any, **kwargs: Any) -> Any:
        if kwargs and kwargs.get("generator") is not None:
            return with_generator(op, args, kwargs)
        try:
            ids, numbers, key = read(args, kwargs)
        except LocalOperandError:
            return run(*lifted(op, args), **lifted_named(kwargs))
        call: Any = find(key)
        if call is None:
            call = learner.meet(args, kwargs, key)
            if type(call) is Answered:
                return call.result
        if call is UNFORESEEN:
            call = learner.with_these_numbers(args, kwargs, key, numbers)
            if call is UNFORESEEN:
                return query(op, args, kwargs)
        spec: Any = call.single
        number: Any = ()
        if spec is not None:
            out = create(spec.size, spec.dtype)
            number = new_id()
            out.untyped_storage()._gt = Holder(number, spec)
            if not spec.contiguous:
                out = restride(META, out, spec.size, spec.stride, 0)
            out._gt = (number, spec, id(out))
        elif call.in_place and ids[0] not in ids[1:]:
            out = args[0]
        else:
            return _several(op, call, args, kwargs, ids, numbers)
        segment = recorder.segment
        segment.append(Op(call.number, number, (*ids, *numbers), here()))
        if len(segment) >= segment.limit:
            flush()
        return out

    return run


def _several(
    op: OpOverload, call: DefinedCall, args: tuple[Any, ...], kwargs: dict[str, Any], ids: list[int], numbers: list[Any]
) -> Any:
    """Record a call with several results, undefined ones, or the caller's own tensors."""
    if call.writes and len(set(ids)) < len(ids) and ask_first.overlaps(op, args, kwargs):
        return query(op, args, kwargs)
    if call.in_place:
        recording.record(wire.Op(call.number, (), (*ids, *numbers), sites.here(3)))
        return args[0]
    fresh = [operands.make(spec) for spec in call.outs if spec is not None]
    recording.record_op(call.number, fresh, (*ids, *numbers), sites.here(3), call.large_bytes)
    given = templates.tensors_in((*args, *kwargs.values())) if call.writes else []
    return _build(call.returns, fresh, given)


def _build(shape: Any, fresh: list[Tensor], given: list[Tensor]) -> Any:
    if type(shape) is Fresh:
        return fresh[shape.index]
    if type(shape) is WrittenOperand:
        return given[shape.position]
    if isinstance(shape, (list, tuple)):
        made = [_build(s, fresh, given) for s in shape]
        return tuple(made) if isinstance(shape, tuple) else made
    return None
