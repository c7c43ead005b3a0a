"""The kernels of the device: what happens when PyTorch's dispatcher hands an ATen overload to `remote`.

`kernel` is the one way for almost every overload. The rest stand in `special.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import increment_version
from torch.utils import deterministic

from gt.client.calls import ask_first, dry_run, schemas, templates
from gt.client.calls.asking import query, with_generator
from gt.client.calls.defined import UNFORESEEN, DefinedCall, Fresh, Written
from gt.client.calls.lifting import lift, lifted
from gt.client.calls.schemas import OpOverload
from gt.client.kernels import learning
from gt.client.session import recording
from gt.client.session.process import process
from gt.client.session.random_sequence import sequence
from gt.client.stream import operands, sites
from gt.client.stream.definitions import definitions
from gt.client.stream.segment import recorder
from gt.wire import instructions as wire

Tensor = torch.Tensor
Op = wire.Op
_create = torch._C._acc.create_empty_tensor
Kernel = Callable[..., Any]


def kernel(op: OpOverload) -> Kernel:
    """The kernel of an overload."""
    cache = definitions.new_cache()
    general = _general_kernel(op, cache)
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


def _drawing_kernel(general: Kernel) -> Kernel:
    """For the operators that take numbers from the session's generator, where they are given no other."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("generator") is None and not (args and isinstance(args[-1], torch.Generator)):
            sequence.to_worker()
        return general(*args, **kwargs)

    return run


UNINITIALIZED = {
    f"aten::{name}" for name in ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided")
}


def _filling_kernel(general: Kernel) -> Kernel:
    """For the operators that leave their result as it comes, which PyTorch fills where it is to be deterministic."""

    def run(*args: Any, **kwargs: Any) -> Any:
        made = general(*args, **kwargs)
        if torch._C._get_deterministic_algorithms() and deterministic.fill_uninitialized_memory:  # type: ignore[attr-defined]
            unknown = made.is_floating_point() or made.is_complex()
            made.fill_(math.nan if unknown else 1 if made.dtype is torch.bool else torch.iinfo(made.dtype).max)
        return made

    return run


def _counting_kernel(general: Kernel) -> Kernel:
    """For the operators that PyTorch leaves to count the versions of what they write, which a backward pass compares."""

    def run(written: list[Tensor], *args: Any, **kwargs: Any) -> Any:
        result = general(written, *args, **kwargs)
        increment_version(t for t in written if not t.is_inference())
        return result

    return run


def _two_operand_kernel(general: Kernel, cache: dict[Any, Any]) -> Kernel:
    """The fast way for what is called most: two operands with known geometries, or one and a number; nothing else."""
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
        segment.append(Op(call.number, number, (first, second), here()))
        if len(segment) >= segment.limit:
            flush()
        return out

    return run


def _general_kernel(op: OpOverload, cache: dict[Any, Any]) -> Kernel:
    """Find the call by its key, make the results, append one instruction."""
    tries_numbers = dry_run.of_numbers(op)
    tried = None if tries_numbers is None else learning.tried(op)
    vary, trusted = learning.varying(op), definitions.new_cache()
    operand, new_id, Holder, here, flush = operands.operand, operands.new_id, operands.Holder, sites.here, process.flush
    find = cache.get

    def run(*args: Any, **kwargs: Any) -> Any:
        ids: list[int] = []
        key: list[Any] = []
        numbers: list[Any] = []
        for position, a in enumerate(args):
            kind = type(a)
            if kind is Tensor or isinstance(a, Tensor):
                found = a._gt  # type: ignore[attr-defined]
                if found[2] != id(a):
                    if a.device.type != "remote":
                        return run(*lifted(op, args), **kwargs)
                    found = operand(a)
                ids.append(found[0])
                key.append(found[1])
            elif (kind is float or kind is int) and position in vary:
                numbers.append(a)
                key.append(kind)
            elif kind is list or kind is tuple:
                if not _gather(op, a, position in vary, ids, key, numbers):
                    return run(*lifted(op, args), **kwargs)
            elif kind is complex and position in vary:
                numbers.append(wire.Complex(a.real, a.imag))
                key.append(kind)
            elif kind is float:  # equal to an integer, which may make another result (`arange`)
                key.append((kind, a))
            else:
                key.append(a)
        if kwargs:
            if kwargs.get("generator") is not None:
                return with_generator(op, args, kwargs)
            for name, v in kwargs.items():
                key.append(name)
                if isinstance(v, Tensor):
                    if v.device.type != "remote":
                        return run(*args, **{**kwargs, name: lift(v)})
                    i, g, _ = operand(v)
                    ids.append(i)
                    key.append(g)
                elif type(v) is list:
                    if not _gather(op, v, False, ids, key, numbers):
                        return run(*args, **{**kwargs, name: [lift(t) if isinstance(t, Tensor) else t for t in v]})
                elif type(v) is float:
                    numbers.append(v)
                    key.append(float)
                else:
                    key.append(v)
                    key.append(type(v))
        packed = tuple(key)
        call: Any = find(packed)
        if call is None:
            if args and isinstance(args[-1], torch.Generator):  # the few that take it by position take it last
                return with_generator(op, args[:-1], {**kwargs, "generator": args[-1]})
            if tries_numbers is not None and tries_numbers(args, kwargs):
                cache[packed] = UNFORESEEN
                return run(*args, **kwargs)
            doubt = ask_first.about(op, args, kwargs, packed)
            if doubt is not None and doubt not in trusted:
                result, foretold = learning.ask(op, args, kwargs)
                if foretold:
                    trusted[doubt] = True
                else:
                    cache[packed] = UNFORESEEN
                return result
            call = learning.learn(op, args, kwargs, vary, cache, packed)
        if call is UNFORESEEN:
            if tried is not None:
                call = tried(args, kwargs, packed, numbers)
            if call is UNFORESEEN:
                return query(op, args, kwargs)
        spec = call.single
        if spec is None:
            if call.in_place:
                if len(ids) > 1 and ids[0] in ids[1:] and ask_first.overlaps(op, args, kwargs):
                    return query(op, args, kwargs)
                segment = recorder.segment
                segment.append(Op(call.number, (), (*ids, *numbers), here()))
                if len(segment) >= segment.limit:
                    flush()
                return args[0]
            if call.writes and len(set(ids)) < len(ids) and ask_first.overlaps(op, args, kwargs):
                return query(op, args, kwargs)
            return _general(call, args, kwargs, ids, numbers)
        out = _create(spec.size, spec.dtype)
        number = new_id()
        out.untyped_storage()._gt = Holder(number, spec)
        if not spec.contiguous:
            out = operands.restride(operands.META, out, spec.size, spec.stride, 0)
        out._gt = (number, spec, id(out))
        segment = recorder.segment
        segment.append(Op(call.number, number, (*ids, *numbers), here()))
        if len(segment) >= segment.limit:
            flush()
        return out

    return run


def _gather(op: OpOverload, values: Any, vary: bool, ids: list[int], key: list[Any], numbers: list[Any]) -> bool:
    """Take in a list argument. False where it holds a CPU tensor, which must be lifted first."""
    key.append(len(values))
    for v in values:
        if isinstance(v, Tensor):
            found = v._gt  # type: ignore[attr-defined]
            if found[2] != id(v):
                if v.device.type != "remote":
                    return False
                found = operands.operand(v)
            ids.append(found[0])
            key.append(found[1])
        elif vary and (type(v) is float or type(v) is int):
            numbers.append(v)
            key.append(type(v))
        elif vary and type(v) is complex:
            numbers.append(wire.Complex(v.real, v.imag))
            key.append(complex)
        else:
            key.append(v)
            key.append(type(v))
    return True


def _general(call: DefinedCall, args: tuple[Any, ...], kwargs: dict[str, Any], ids: list[int], numbers: list[Any]) -> Any:
    """Results that are several, undefined, or the caller's own tensors."""
    fresh = [operands.make(spec) for spec in call.outs if spec is not None]
    recording.record_op(call.number, fresh, (*ids, *numbers), sites.here(3))
    given = templates.tensors_in((*args, *kwargs.values())) if call.writes else []
    return _build(call.returns, fresh, given)


def _build(shape: Any, fresh: list[Tensor], given: list[Tensor]) -> Any:
    if type(shape) is Fresh:
        return fresh[shape.index]
    if type(shape) is Written:
        return given[shape.position]
    if isinstance(shape, (list, tuple)):
        made = [_build(s, fresh, given) for s in shape]
        return tuple(made) if isinstance(shape, tuple) else made
    return None
