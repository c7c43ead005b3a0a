"""From a definition to a prepared call: the operator found in the op table, the arguments a list with holes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gt.errors import ProtocolError
from gt.wire import instructions as wire
from gt.worker import graph, rows
from gt.worker.memory import DTYPES

REFUSED = {"aten::from_file", "aten::_pin_memory", "aten::pin_memory", "aten::is_pinned", "aten::record_stream"}
"""Operators of ATen that no client has a use for, and that reach beyond the session's tensors."""
REFUSED_PREFIXES = ("aten::set_", "aten::_cuda", "aten::_cudnn_init", "aten::_share", "aten::_nested_from")
GT_OPS: dict[str, Callable[..., Any]] = {"gt::backward": graph.backward}
LAYOUTS = {"strided": torch.strided}
MEMORY_FORMATS = {
    str(f).removeprefix("torch."): f
    for f in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}


class Operators:
    """The op table: what a wire string may name."""

    _known: frozenset[str] = frozenset()

    @classmethod
    def find(cls, name: str, device: torch.device) -> Any:
        """The callable of an operator. Raises NotImplementedError for a name outside the table."""
        if name in GT_OPS:
            return GT_OPS[name]
        if device.type == "cpu" and name in rows.CPU:
            return rows.CPU[name]
        if not cls._known:
            cls._known = frozenset(torch._C._dispatch_get_all_op_names())
        if not name.startswith("aten::") or name not in cls._known or name in REFUSED:
            raise NotImplementedError(f"{name} is not an operator of GT's workers")
        if name.startswith(REFUSED_PREFIXES):
            raise NotImplementedError(f"{name} is refused: it reaches beyond a session's own tensors")
        base, _, overload = name.removeprefix("aten::").partition(".")
        return getattr(getattr(torch.ops.aten, base), overload or "default")


def draws(op: Any) -> bool:
    """Whether the operator takes numbers from a generator."""
    if not isinstance(op, torch._ops.OpOverload):
        return op is graph.backward
    return torch.Tag.nondeterministic_seeded in op.tags or any(a.name == "generator" for a in op._schema.arguments)


def written(op: Any, args: list[wire.Arg], kwargs: dict[str, wire.Arg]) -> list[int]:
    """Operands (by index) that the operator writes."""
    if not isinstance(op, torch._ops.OpOverload):
        return []
    found: list[int] = []
    for position, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            values = value if isinstance(value, list) else [value]
            found += [v.index for v in values if isinstance(v, wire.In)]
    return found


class Filler:
    """Builds the arguments of one run from operands and numbers."""

    def __init__(self, device: torch.device, args: list[wire.Arg], kwargs: dict[str, wire.Arg]) -> None:
        self.device = device
        self.generators: list[tuple[int, torch.Generator]] = []
        self.args = [self._builder(a) for a in args]
        self.kwargs = {k: self._builder(v) for k, v in kwargs.items()}
        self.constants = all(b is None or isinstance(b, tuple) for b in (*self.args, *self.kwargs.values()))
        direct = [a.index for a in args if isinstance(a, wire.In)]
        self.positional = not kwargs and len(direct) == len(args) and direct == list(range(len(args)))

    def _builder(self, value: wire.Arg) -> Any:
        """A function of (operands, numbers), or a one-tuple with a constant."""
        if isinstance(value, wire.In):
            index = value.index
            return lambda ins, numbers: ins[index]
        if isinstance(value, wire.Number):
            index = value.index
            return lambda ins, numbers: _number(numbers[index])
        if isinstance(value, wire.Generator):
            index = value.index
            return lambda ins, numbers: self._generator(index, ins[index])
        if isinstance(value, list):
            parts = [self._builder(v) for v in value]
            if all(isinstance(p, tuple) for p in parts):
                return ([p[0] for p in parts],)
            return lambda ins, numbers: [_get(p, ins, numbers) for p in parts]
        return (self._constant(value),)

    def _constant(self, value: Any) -> Any:
        if isinstance(value, wire.Dtype):
            return DTYPES[value.name]
        if isinstance(value, wire.Device):
            return self.device
        if isinstance(value, wire.Layout):
            if value.name not in LAYOUTS:
                raise NotImplementedError(f"layout {value.name}: remote tensors are strided")
            return LAYOUTS[value.name]
        if isinstance(value, wire.MemoryFormat):
            return MEMORY_FORMATS[value.name]
        if isinstance(value, wire.Complex):
            return complex(value.real, value.imag)
        return value

    def _generator(self, index: int, state: torch.Tensor) -> torch.Generator:
        generator = torch.Generator("cpu" if state.numel() > 1024 else self.device)
        generator.set_state(state.cpu())
        self.generators.append((index, generator))
        return generator

    def fill(self, ins: list[Any], numbers: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        return (
            [_get(b, ins, numbers) for b in self.args],
            {k: _get(b, ins, numbers) for k, b in self.kwargs.items()},
        )

    def give_back_generators(self, ins: list[Any]) -> None:
        """Leave the advanced states where they came from."""
        for index, generator in self.generators:
            ins[index].copy_(generator.get_state())
        self.generators.clear()


def _get(builder: Any, ins: list[Any], numbers: list[Any]) -> Any:
    return builder[0] if type(builder) is tuple else builder(ins, numbers)


def _number(value: Any) -> Any:
    return complex(value.real, value.imag) if type(value) is wire.Complex else value


class Call:
    """A prepared call. `verified` turns true when its first results were found to be what the client expects."""

    __slots__ = (
        "copies", "default_dtype", "define", "draws", "filler", "ins", "name", "op", "out_numbers", "outs", "positional",
        "raw", "saves_graph", "verified", "written",
    )  # fmt: skip

    def __init__(self, define: wire.Define, device: torch.device, number: Callable[[wire.Geometry], int]) -> None:
        self.define = define
        self.name = define.op
        self.op = Operators.find(define.op, device)
        self.raw = getattr(self.op, "_op", self.op)
        self.filler = Filler(device, define.args, define.kwargs)
        self.positional = self.filler.positional and not bool(define.graph_of)
        self.ins = [number(g) for g in define.ins]
        self.outs = [g for g in define.outs if g is not None]
        self.out_numbers = [number(g) for g in self.outs]
        self.written = written(self.op, define.args, define.kwargs)
        self.draws = draws(self.op) or bool(define.graph_of)
        self.saves_graph = bool(define.graph_of)
        self.default_dtype = _dtype(define.default_dtype)
        self.verified = False
        self.copies: list[bool] = [False] * len(self.outs)
        """Results that must be copied into storages of their own, laid out as the client expects."""


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ProtocolError(f"unknown dtype {name!r}")
    return DTYPES[name]
