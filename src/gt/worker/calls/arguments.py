"""The arguments of a call: lists with holes, which each run fills with its operands and numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gt.errors import ProtocolError
from gt.wire import instructions as wire
from gt.worker.calls import sparse
from gt.worker.calls.scalars import Convert, number
from gt.worker.geometry import DTYPES

LAYOUTS = {"strided": torch.strided, **sparse.LAYOUTS}
MEMORY_FORMATS = {
    str(f).removeprefix("torch."): f
    for f in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}
Build = Callable[[list[Any], Sequence[Any]], Any]
"""Makes one argument from a run's operands and numbers."""


class Arguments:
    """The template of a call's arguments. Raises NotImplementedError for a layout that workers do not have."""

    def __init__(
        self, device: torch.device, args: list[wire.Arg], kwargs: dict[str, wire.Arg], convert: Convert = number
    ) -> None:
        """`convert`: what a number among the positional arguments is given as."""
        self.device = device
        self.convert = convert
        self.keeps_state = False
        """Whether a run leaves something here for what comes after it: a generator, or a sparse tensor."""
        self._generators: list[tuple[int, torch.Generator]] = []
        self._sparse: dict[tuple[Any, ...], torch.Tensor] = {}
        """The sparse tensors of one run, by the identities of their parts, layout and size."""
        self._args: list[Any] = [None] * len(args)
        self.kwargs: dict[str, Any] = {}
        """Those that are constants."""
        self._operands: list[tuple[int, int]] = []
        """(position, operand) of the arguments that are operands: the commonest hole, filled without a call."""
        self._built: list[tuple[int, Build]] = []
        self._built_kwargs: list[tuple[str, Build]] = []
        self._sort_args(args)
        self._sort_kwargs(kwargs)
        in_order = self._operands == [(i, i) for i in range(len(self._operands))]
        self.are_operands = not kwargs and in_order and len(self._operands) == len(args)
        """The arguments are the operands, in order."""
        self.are_operand_and_number = not kwargs and args == [wire.In(0), wire.Number(0)]
        """The arguments are one operand and a number."""
        self.constants = tuple(self._args[len(self._operands) :])
        self.are_operands_then_constants = in_order and not (self._built or self._built_kwargs)
        """The arguments are the operands, in order, then `constants` and `kwargs`."""

    def _sort_args(self, args: list[wire.Arg]) -> None:
        for position, value in enumerate(args):
            if isinstance(value, wire.In):
                self._operands.append((position, value.index))
            elif (build := self._build(value, self.convert)) is not None:
                self._built.append((position, build))
            else:
                self._args[position] = self._constant(value)

    def _sort_kwargs(self, kwargs: dict[str, wire.Arg]) -> None:
        for name, value in kwargs.items():
            if (build := self._build(value, number)) is not None:
                self._built_kwargs.append((name, build))
            else:
                self.kwargs[name] = self._constant(value)

    def _build(self, value: wire.Arg, convert: Convert) -> Build | None:
        """How an argument is made from operands and numbers; None for a constant."""
        if isinstance(value, (wire.In, wire.Number, wire.GeneratorIn)):
            index = value.index
            if isinstance(value, wire.In):
                return lambda ins, numbers: ins[index]
            if isinstance(value, wire.Number):
                return lambda ins, numbers: convert(numbers[index])
            self.keeps_state = True
            return lambda ins, numbers: self._generator(index, ins[index])
        if isinstance(value, wire.Sparse):
            self.keeps_state = True
            return lambda ins, numbers: self._compose(value, [ins[i] for i in value.parts])
        return self._build_list(value) if isinstance(value, list) else None

    def _build_list(self, values: list[Any]) -> Build | None:
        if all(self._build(v, number) is None for v in values):
            return None
        if all(isinstance(v, wire.In) for v in values):
            indices = [v.index for v in values]
            return lambda ins, numbers: [ins[i] for i in indices]
        parts = [self._build(v, number) or _always(self._constant(v)) for v in values]
        return lambda ins, numbers: [part(ins, numbers) for part in parts]

    def _compose(self, given: wire.Sparse, parts: list[torch.Tensor]) -> torch.Tensor:
        """One tensor object where a call names the same sparse tensor twice: `out=` may be an operand."""
        key = (given.layout, given.size, *map(id, parts))
        if key not in self._sparse:
            self._sparse[key] = sparse.compose(given, parts)
        return self._sparse[key]

    def _constant(self, value: Any) -> Any:
        if isinstance(value, wire.Dtype):
            return DTYPES[value.name]
        if isinstance(value, wire.Device):
            return self.device
        if isinstance(value, wire.Layout):
            if value.name not in LAYOUTS:
                raise NotImplementedError(f"layout {value.name} has no place on a worker")
            return LAYOUTS[value.name]
        if isinstance(value, wire.MemoryFormat):
            return MEMORY_FORMATS[value.name]
        if isinstance(value, list):
            return [self._constant(v) for v in value]
        return number(value)

    def _generator(self, index: int, state: torch.Tensor) -> torch.Generator:
        generator = torch.Generator("cpu" if state.numel() > 1024 else self.device)
        generator.set_state(state.cpu())
        self._generators.append((index, generator))
        return generator

    def fill(self, ins: list[Any], numbers: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional and keyword arguments of a run. Raises RuntimeError for sparse parts that do not fit each other."""
        args = self._args[:]
        if self._sparse:
            self._sparse.clear()
        for position, index in self._operands:
            args[position] = ins[index]
        for position, build in self._built:
            args[position] = build(ins, numbers)
        if not self._built_kwargs:
            return args, self.kwargs
        return args, {**self.kwargs, **{name: build(ins, numbers) for name, build in self._built_kwargs}}

    def give_back_generators(self, ins: list[Any]) -> None:
        """Write the states of the generators of a run back into the operands (uint8) that they came from."""
        for index, generator in self._generators:
            ins[index].copy_(generator.get_state())
        self._generators.clear()


def _always(value: Any) -> Build:
    return lambda ins, numbers: value


def check_indices(define: wire.Define) -> None:
    """Raises ProtocolError where the template names an operand that the call does not have."""
    for value in (*define.args, *define.kwargs.values()):
        for index in _indices(value):
            if not 0 <= index < len(define.ins):
                raise ProtocolError(f"{define.op}: operand {index} of {len(define.ins)}")


def _indices(value: wire.Arg) -> list[int]:
    """The operands that an argument names; lists are not nested."""
    found: list[int] = []
    for one in value if isinstance(value, list) else (value,):
        if isinstance(one, wire.Sparse):
            found += one.parts
        elif isinstance(one, (wire.In, wire.GeneratorIn)):
            found.append(one.index)
    return found
