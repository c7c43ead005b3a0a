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

from gt.client import calls, doubts, randomness, record, session, sites, trials
from gt.client.aside import untraced
from gt.client.calls import UNFORESEEN, Call, Fresh, OpOverload, Written
from gt.client.lifting import lift, lifted
from gt.client.query import query, with_generator
from gt.wire import instructions as wire

Tensor = torch.Tensor
Op = wire.Op
_create = torch._C._acc.create_empty_tensor
Kernel = Callable[..., Any]


def kernel(op: OpOverload) -> Kernel:
    """The kernel of an overload."""
    cache = calls.new_cache()
    general = _general_kernel(op, cache)
    kinds = [f"{a.type}?" if a.has_default_value() else str(a.type) for a in op._schema.arguments if not a.kwarg_only]
    named = {a.name for a in op._schema.arguments if a.kwarg_only}
    one_result = [str(r.type) for r in op._schema.returns] == ["Tensor"] and calls.fresh_results(op)
    if one_result and kinds in (["Tensor", "Tensor"], ["Tensor", "number"]) and named <= {"alpha"}:
        return _two_operand_kernel(general, cache)
    if op._schema.name.startswith("aten::_foreach_") and op._schema.is_mutable:
        return _counting_kernel(general)
    if randomness.draws(op):
        return _drawing_kernel(general)
    return _filling_kernel(general) if op._schema.name in UNINITIALIZED else general


def _drawing_kernel(general: Kernel) -> Kernel:
    """For the operators that take numbers from the session's generator, where they are given no other."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("generator") is None and not (args and isinstance(args[-1], torch.Generator)):
            randomness.to_worker()
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
    segment, append = record.segment, record.segment.append
    new_id, Holder, Flush, here = record.new_id, record.Holder, record.Flush, sites.here
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
        append(Op(call.number, number, (first, second), here()))
        if len(segment) >= Flush.limit:
            Flush.send()
        return out

    return run


def _general_kernel(op: OpOverload, cache: dict[Any, Any]) -> Kernel:
    """Find the call by its key, make the results, append one instruction."""
    tries_numbers = trials.of_numbers(op)
    tried = None if tries_numbers is None else _tried(op)
    vary, trusted = varying(op), calls.new_cache()
    segment, append = record.segment, record.segment.append
    operand, new_id, Holder, Flush, here = record.operand, record.new_id, record.Holder, record.Flush, sites.here
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
            doubt = doubts.about(op, args, kwargs, packed)
            if doubt is not None and doubt not in trusted:
                result, foretold = ask_first(op, args, kwargs)
                if foretold:
                    trusted[doubt] = True
                else:
                    cache[packed] = UNFORESEEN
                return result
            call = learn(op, args, kwargs, vary, cache, packed)
        if call is UNFORESEEN:
            if tried is not None:
                call = tried(args, kwargs, packed, numbers)
            if call is UNFORESEEN:
                return query(op, args, kwargs)
        spec = call.single
        if spec is None:
            if call.in_place:
                if len(ids) > 1 and ids[0] in ids[1:] and doubts.overlaps(op, args, kwargs):
                    return query(op, args, kwargs)
                append(Op(call.number, (), (*ids, *numbers), here()))
                if len(segment) >= Flush.limit:
                    Flush.send()
                return args[0]
            if call.writes and len(set(ids)) < len(ids) and doubts.overlaps(op, args, kwargs):
                return query(op, args, kwargs)
            return _general(call, args, kwargs, ids, numbers)
        out = _create(spec.size, spec.dtype)
        number = new_id()
        out.untyped_storage()._gt = Holder(number, spec)
        if not spec.contiguous:
            out = record._restride(record.META, out, spec.size, spec.stride, 0)
        out._gt = (number, spec, id(out))
        append(Op(call.number, number, (*ids, *numbers), here()))
        if len(segment) >= Flush.limit:
            Flush.send()
        return out

    return run


def _tried(op: OpOverload) -> Callable[..., Any]:
    """Finds the call whose numbers a CPU may refuse, where the operands are taken: each number is tried once."""
    vary, cache, tried = varying(op), calls.new_cache(), calls.new_cache()

    def find(args: tuple[Any, ...], kwargs: dict[str, Any], packed: tuple[Any, ...], numbers: list[Any]) -> Any:
        key = (packed, *numbers)
        call = tried.get(key)
        if call is None:
            if trials.fails(op, args, kwargs):
                return UNFORESEEN
            if len(tried) >= calls.LIMIT:
                tried.clear()
            call = tried[key] = cache.get(packed) or learn(op, args, kwargs, vary, cache, packed)
        return call

    return find


VARYING = {"Tensor", "number", "float", "Optional[Tensor]", "Optional[number]", "Optional[float]", "List[number]"}


def varying(op: OpOverload) -> frozenset[int]:
    """Positions of the arguments that may be numbers of no influence on the result's shape."""
    if op._schema.name in calls.SHAPED_BY_NUMBERS:
        return frozenset()
    return frozenset(i for i, a in enumerate(op._schema.arguments) if str(a.type) in VARYING and not a.kwarg_only)


def _gather(op: OpOverload, values: Any, vary: bool, ids: list[int], key: list[Any], numbers: list[Any]) -> bool:
    """Take in a list argument. False where it holds a CPU tensor, which must be lifted first."""
    key.append(len(values))
    for v in values:
        if isinstance(v, Tensor):
            found = v._gt  # type: ignore[attr-defined]
            if found[2] != id(v):
                if v.device.type != "remote":
                    return False
                found = record.operand(v)
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


@untraced
def ask_first(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool]:
    """Let the worker say whether it takes a call of this kind at all. The result, and whether inference foretells it."""
    given = calls.tensors_in((*args, *kwargs.values()))
    before = [record.operand(t)[1] for t in given]
    result = query(op, args, kwargs)
    fresh = [t.dtype for t in calls.tensors_in((result,)) if not any(t is g for g in given)]
    try:
        foretold = [spec.dtype for spec in calls.infer(op, args, kwargs, before).outs if spec is not None]
    except Exception:
        return result, False  # inference does not know this call
    return result, fresh == foretold


@untraced
def learn(
    op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], vary: frozenset[int], cache: dict[Any, Any], key: Any
) -> Any:
    """Infer and define a call that was not met before."""
    call: Any = UNFORESEEN
    if not (unforeseeable(op) or _beyond(op, args) or any(map(shares_elements, calls.written(op, args, kwargs).values()))):
        specs = [record.operand(t)[1] for t in calls.tensors_in((*args, *kwargs.values()))]
        try:
            found = calls.infer(op, args, kwargs, specs)
        except Exception:
            # Either the worker finds the same fault, and its error is the one PyTorch's CPU gives, or inference does not
            # know this call and the worker does. Both are settled by asking.
            cache[key] = UNFORESEEN
            return UNFORESEEN
        number = calls.define(op, args, kwargs, specs, found.outs, vary)
        call = _call(number, found, bool(args) and isinstance(args[0], Tensor))
    cache[key] = call
    return call


def _beyond(op: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether the dim of a call is none of its first operand's: not all inference looks."""
    if not args or not isinstance(args[0], Tensor):
        return False
    dims = max(args[0].dim(), 1)
    given = zip(op._schema.arguments, args, strict=False)
    return any(a.name == "dim" and type(v) is int and not -dims <= v < dims for a, v in given)


def shares_elements(written: Tensor) -> bool:
    """Whether elements share memory: if an operator may write them, the worker says at the call, inference does not."""
    return any(stride == 0 and n > 1 for n, stride in zip(written.shape, written.stride(), strict=True))


def unforeseeable(op: OpOverload) -> bool:
    """Whether results depend on data, or are not tensors."""
    tags = op.tags
    return (
        calls.op_name(op) in calls.ASKED
        or torch.Tag.dynamic_output_shape in tags
        or torch.Tag.data_dependent_output in tags
        or any(not str(r.type).startswith(("Tensor", "Optional[Tensor]", "List[Tensor]")) for r in op._schema.returns)
    )


def _call(number: int, found: calls.Inferred, tensor_first: bool) -> Call:
    single = found.outs[0] if type(found.shape) is Fresh else None
    return Call(number, found.outs, single, found.shape, tensor_first and not found.outs and found.shape == Written(0))


def _general(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], ids: list[int], numbers: list[Any]) -> Any:
    """Results that are several, undefined, or the caller's own tensors."""
    fresh = [record.make(spec) for spec in call.outs if spec is not None]
    record.record_op(call.number, fresh, (*ids, *numbers), sites.here(3))
    given = calls.tensors_in((*args, *kwargs.values())) if call.writes else []
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


session.forget_definitions = calls.forget_all
