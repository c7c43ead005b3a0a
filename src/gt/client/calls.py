"""From an ATen call to a defined call: the template, the results' geometries, and what changes in place.

A call is inferred once on meta tensors and defined once; from then on its key finds it. Keys hold the geometries of the
operands and every literal that may shape a result; numbers that only enter the arithmetic stay out.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from gt.client import geometry, record, uncompiled
from gt.client.aside import aside
from gt.client.corrections import inference
from gt.client.geometry import Geometry
from gt.wire import instructions as wire

OpOverload = torch._ops.OpOverload
LIMIT = 1 << 16
"""Definitions that one session keeps; beyond it all are forgotten and made again when needed."""

SHAPED_BY_NUMBERS = {"aten::arange", "aten::range", "aten::arange.start", "aten::arange.start_step"} | {
    f"aten::_upsample_{kind}2d_aa{of}" for kind in ("bilinear", "bicubic", "lanczos") for of in ("", "_backward")
}
"""Operators whose numbers decide the size of the result, or have to fit it."""

ASKED = {"aten::_embedding_bag", "aten::_embedding_bag_forward_only"}
"""Operators whose results on a CPU have other sizes than inference says: the worker is asked each time."""

CLIENT_ONLY = {"pin_memory", "non_blocking"}
"""Keyword arguments that speak of the client's memory."""

_new_call = itertools.count(1).__next__
_caches: list[dict[Any, Any]] = []
_defined: dict[int, tuple[str, int]] = {}
"""The calls that the worker knows: their operators, and how many operands they take."""


@dataclass(slots=True)
class Call:
    """A defined call. `outs`: the geometry of each fresh result, nested as the operator returns them."""

    number: int
    outs: Any
    single: Geometry | None
    """The only result, where there is just one and it is fresh: the fast way."""
    returns: Any
    """How the written operands and the fresh results make up what the operator returns."""
    in_place: bool = False
    """The call makes nothing and returns its first operand."""
    plain: Geometry | None = field(init=False)
    """`single`, where it is contiguous."""
    writes: bool = field(init=False)
    """It returns a written operand."""

    def __post_init__(self) -> None:
        self.plain = self.single if self.single is not None and self.single.contiguous else None
        self.writes = _has_written(self.returns)


class Unforeseen:
    """Stands in a cache for a call whose results only the worker can tell."""

    single = plain = None


UNFORESEEN = Unforeseen()


def new_cache() -> dict[Any, Any]:
    cache: dict[Any, Any] = {}
    _caches.append(cache)
    return cache


def forget_all() -> None:
    """Forget every definition: the table is full, the worker is another one, or the default dtype changed."""
    with record.lock:
        for cache in _caches:
            cache.clear()
        if _defined:
            record.segment.append(wire.Forget(list(_defined)))
            _defined.clear()


def define(
    op: OpOverload,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    ins: list[Geometry],
    outs: list[Geometry | None],
    vary: frozenset[int],
    requires_grad: tuple[int, ...] = (),
    grad_mode: bool = False,
    name: str | None = None,
) -> int:
    """Record the definition of a call and return its number."""
    with record.lock:
        if len(_defined) >= LIMIT:
            forget_all()
        number = _new_call()
        named = name or op_name(op)
        _defined[number] = named, len(ins)
        template = Template(vary)
        record.segment.append(
            wire.Define(
                number,
                named,
                [template.arg(a, i in vary) for i, a in enumerate(args)],
                {k: template.arg(v, type(v) is float) for k, v in kwargs.items() if k not in CLIENT_ONLY},
                [g.to_wire() for g in ins],
                [None if g is None else g.to_wire() for g in outs],
                requires_grad,
                grad_mode,
                geometry.dtype_name(torch.get_default_dtype()),
            )
        )
    return number


def described(number: int) -> tuple[str, int]:
    """A defined call's operator and how many operands it takes; `call N` and none where it was forgotten since."""
    return _defined.get(number, (f"call {number}", 0))


def op_name(op: OpOverload) -> str:
    name: str = op.name()
    return name


class Template:
    """Turns arguments into the template of a call, numbering operands and varying numbers in the order they are met."""

    def __init__(self, vary: frozenset[int] = frozenset()) -> None:
        self.operands = 0
        self.numbers = 0

    def arg(self, value: Any, vary: bool) -> Any:
        kind = type(value)
        if vary and (kind is float or kind is int or kind is complex):
            self.numbers += 1
            return wire.Number(self.numbers - 1)
        if value is None or kind is bool or kind is int or kind is float or kind is str:
            return value  # type: ignore[no-any-return]
        if isinstance(value, torch.Tensor):
            self.operands += 1
            return wire.In(self.operands - 1)
        if isinstance(value, (list, tuple)):
            return [self.arg(v, vary) for v in value]
        if isinstance(value, GeneratorState):
            self.operands += 1
            return wire.Generator(self.operands - 1)
        if isinstance(value, SparseOperand):
            parts = tuple(self.arg(part, False).index for part in value.parts)
            return wire.Sparse(layout_name(value.layout), parts, value.size, value.coalesced)
        return _constant(value)


@dataclass(slots=True, frozen=True)
class GeneratorState:
    """The state of a client's `torch.Generator` on its way, as an argument of a query."""

    state: torch.Tensor


@dataclass(slots=True, frozen=True)
class SparseOperand:
    """A tensor of a sparse layout on its way, as an argument of a query: its parts are the operands."""

    layout: torch.layout
    parts: tuple[torch.Tensor, ...]
    size: tuple[int, ...]
    coalesced: bool


def layout_name(layout: torch.layout) -> str:
    return str(layout).removeprefix("torch.")


def _constant(value: Any) -> wire.Arg:
    if isinstance(value, torch.dtype):
        return wire.Dtype(geometry.dtype_name(value))
    if isinstance(value, torch.device):
        record.check_index(value)
        return wire.Device()
    if isinstance(value, torch.layout):
        return wire.Layout(layout_name(value))
    if isinstance(value, torch.memory_format):
        return wire.MemoryFormat(str(value).removeprefix("torch."))
    if isinstance(value, complex):
        return wire.Complex(value.real, value.imag)
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return _constant(value.node.maybe_as_int())
    raise TypeError(f"an argument of type {type(value).__name__} cannot travel to a worker")


def tensors_in(values: Iterable[Any]) -> list[torch.Tensor]:
    """Every tensor among the arguments, in the order `Template` numbers them."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(tensors_in(value))
        elif isinstance(value, SparseOperand):
            found.extend(value.parts)
        elif isinstance(value, GeneratorState):
            found.append(value.state)
    return found


# -- inference -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Inferred:
    """What a call does, found on meta tensors."""

    outs: list[Geometry | None]
    """Fresh results in order, None for an undefined one."""
    shape: Any
    """What the operator returns: `Fresh` and `Written` in the nesting of its results."""


@dataclass(slots=True, frozen=True)
class Fresh:
    index: int


@dataclass(slots=True, frozen=True)
class Written:
    position: int


def _has_written(shape: Any) -> bool:
    return isinstance(shape, Written) or (isinstance(shape, (list, tuple)) and any(_has_written(s) for s in shape))


_prepare = functools.cache(uncompiled.install)


def infer(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], specs: list[Geometry]) -> Inferred:
    """Run the operator on meta tensors. Raises whatever the operator raises there, and for operands that are resized."""
    _prepare()
    with torch.no_grad(), aside():
        return _inferred(op, args, kwargs, specs)


def _inferred(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], specs: list[Geometry]) -> Inferred:
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
    result = _wanted(op, args, inference(op_name(op), op)(*meta_args, **meta_kwargs))
    outs: list[Geometry | None] = []
    positions = {id(t): i for i, t in enumerate(used)}
    shape = _shape(result, positions, outs, fresh=fresh_results(op))
    if any(_differs(geometry.of(t), spec) for t, spec in zip(used, specs, strict=True)):
        raise NotImplementedError("how a result that is resized lies, the worker says")
    return Inferred(outs, shape)


def _wanted(op: OpOverload, args: tuple[Any, ...], result: Any) -> Any:
    """Without the gradients that an `output_mask` leaves out, which inference makes all the same."""
    mask = next((a for p, a in zip(op._schema.arguments, args, strict=False) if p.name == "output_mask"), None)
    return result if mask is None else tuple(r if wanted else None for r, wanted in zip(result, mask, strict=True))


def _differs(now: Geometry, before: Geometry) -> bool:
    return now is not before and now.to_wire() != before.to_wire()


def fresh_results(op: OpOverload) -> bool:
    return not any(r.alias_info is not None and r.alias_info.is_write for r in op._schema.returns)


def _shape(result: Any, positions: dict[int, int], outs: list[Geometry | None], fresh: bool) -> Any:
    if isinstance(result, torch.Tensor):
        position = positions.get(id(result))
        if position is not None and not fresh:
            return Written(position)
        spec = geometry.of(result)
        outs.append(geometry.intern(spec.size, _own_stride(result, spec), 0, spec.dtype))
        return Fresh(len(outs) - 1)
    if isinstance(result, (list, tuple)):
        made = [_shape(r, positions, outs, fresh) for r in result]
        return tuple(made) if isinstance(result, tuple) else made
    if result is None:
        return None
    raise NotImplementedError("a result that is not a tensor")


def _own_stride(result: torch.Tensor, spec: Geometry) -> tuple[int, ...]:
    """A fresh result's strides; an expanded one (stride 0) gets elements of its own."""
    if any(s == 0 and n > 1 for n, s in zip(spec.size, spec.stride, strict=True)):
        return geometry.contiguous_stride(spec.size)
    return spec.stride


def written(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[frozenset[str], torch.Tensor]:
    """The operands that a call writes, by their alias set."""
    found = {}
    for position, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            if isinstance(value, torch.Tensor):
                found[frozenset(argument.alias_info.before_set)] = value
    return found
