"""Defining a call for the worker: its template, with holes for operands and varying numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from gt.client.calls.schemas import OpOverload, draws, may_write, op_name, written_operands
from gt.client.stream import devices, geometry
from gt.client.stream.definitions import definitions
from gt.client.stream.geometry import TensorSpec
from gt.client.stream.segment import recorder
from gt.wire import instructions as wire

CLIENT_ONLY = {"pin_memory", "non_blocking"}
"""Keyword arguments about the client's memory, which are not sent."""


@dataclass(slots=True, frozen=True)
class Described:
    """A definition but for its geometries."""

    op: str
    args: list[Any]
    kwargs: dict[str, Any]
    requires_grad: tuple[int, ...]
    grad_mode: bool
    default_dtype: str
    writes: tuple[int, ...]
    may_write: tuple[int, ...] | None
    """The operands that it writes; None: maybe any."""
    draws: bool


def describe(
    op: OpOverload,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    vary: frozenset[int],
    requires_grad: tuple[int, ...] = (),
    grad_mode: bool = False,
    name: str | None = None,
) -> Described:
    """The definition of a call, without geometries.

    `vary`: positions whose numbers each operation gives anew. `requires_grad` and `grad_mode`: for composites that the
    worker runs under autograd. `name`: the operator's name on the wire, if it is not `op`'s.
    """
    template = Template(vary)
    plain = [template.arg(a, i in vary) for i, a in enumerate(args)]
    by_name = {k: template.arg(v, type(v) is float) for k, v in kwargs.items() if k not in CLIENT_ONLY}
    own = name is None
    writes = written_operands(op, plain, by_name) if own else ()
    return Described(
        name or op_name(op),
        plain,
        by_name,
        requires_grad,
        grad_mode,
        geometry.dtype_name(torch.get_default_dtype()),
        writes,
        writes if own and (writes or not may_write(op)) else None,
        own and draws(op),
    )


def define(described: Described, ins: list[TensorSpec], outs: list[TensorSpec | None]) -> int:
    """Record a definition with these geometries, and return its number."""
    with recorder.lock:
        number = definitions.add(described.op, len(ins), described.may_write)
        recorder.segment.append(
            wire.Define(
                number,
                described.op,
                described.args,
                described.kwargs,
                [g.to_wire() for g in ins],
                [None if g is None else g.to_wire() for g in outs],
                described.requires_grad,
                described.grad_mode,
                described.default_dtype,
                described.writes,
                described.draws,
            )
        )
    return number


class Template:
    """Turns arguments into the template of a call. Operands and varying numbers are numbered in order of appearance."""

    def __init__(self, vary: frozenset[int] = frozenset()) -> None:
        self.operands = 0
        self.numbers = 0

    def arg(self, value: Any, vary: bool) -> Any:
        """The template of one argument; `vary`: it may be a number that each operation gives. Raises TypeError for other
        types."""
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
            return wire.GeneratorIn(self.operands - 1)
        if isinstance(value, SparseOperand):
            parts = tuple(self.arg(part, False).index for part in value.parts)
            return wire.Sparse(layout_name(value.layout), parts, value.size, value.coalesced)
        return _constant(value)


@dataclass(slots=True, frozen=True)
class GeneratorState:
    """The state of a client's `torch.Generator`, as an argument of a query."""

    state: torch.Tensor


@dataclass(slots=True, frozen=True)
class SparseOperand:
    """A sparse tensor as an argument of a query: its parts are the operands."""

    layout: torch.layout
    parts: tuple[torch.Tensor, ...]
    size: tuple[int, ...]
    coalesced: bool


def layout_name(layout: torch.layout) -> str:
    """`sparse_coo` for `torch.sparse_coo`."""
    return str(layout).removeprefix("torch.")


def _constant(value: Any) -> wire.Arg:
    if isinstance(value, torch.dtype):
        return wire.Dtype(geometry.dtype_name(value))
    if isinstance(value, torch.device):
        devices.check_index(value)
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
