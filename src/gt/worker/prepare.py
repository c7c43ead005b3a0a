"""From a definition to a prepared call: the operator found in the op table, the arguments a list with holes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gt.errors import ProtocolError
from gt.wire import instructions as wire
from gt.worker import graph, sparse, table, trust
from gt.worker.memory import COUNTED_FROM_BYTES, DTYPES, Memory, Storages, size_bytes
from gt.worker.zeroing import Zeroing, allocates, fills

aten = torch.ops.aten
DEFAULT_DTYPE = torch.float32
"""The default dtype of a worker's process, between any two calls."""
LAYOUTS = {"strided": torch.strided, **sparse.LAYOUTS}
MEMORY_FORMATS = {
    str(f).removeprefix("torch."): f
    for f in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}


def draws(op: Any) -> bool:
    """Whether the operator takes numbers from a generator."""
    if not isinstance(op, torch._ops.OpOverload):
        return op is graph.backward
    return torch.Tag.nondeterministic_seeded in op.tags or any(a.name == "generator" for a in op._schema.arguments)


def written(op: Any, args: list[wire.Arg], kwargs: dict[str, wire.Arg]) -> tuple[list[int], list[int]]:
    """Operands (by index) that the operator writes, and which of these it may resize."""
    if not isinstance(op, torch._ops.OpOverload):
        return [], []
    found: list[int] = []
    resized: list[int] = []
    for position, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            values = value if isinstance(value, list) else [value]
            found += (indices := [v.index for v in values if isinstance(v, wire.In)])
            if argument.kwarg_only:  # `out=`
                resized += indices
    return found, resized


def mask(op: Any, args: list[wire.Arg]) -> list[Any] | None:
    """Which of its results a backward operator is asked for; None: all."""
    if not isinstance(op, torch._ops.OpOverload):
        return None
    found = (a for p, a in zip(op._schema.arguments, args, strict=False) if p.name == "output_mask" and isinstance(a, list))
    return next(found, None)


def _number(value: Any) -> Any:
    return complex(value.real, value.imag) if type(value) is wire.Complex else value


Build = Callable[[list[Any], Sequence[Any]], Any]


class Filler:
    """The arguments of a call as lists with holes, filled anew for each run."""

    def __init__(
        self, device: torch.device, args: list[wire.Arg], kwargs: dict[str, wire.Arg], promoted: torch.dtype | None = None
    ) -> None:
        """`promoted`: the dtype in which numbers among the positional arguments may be given as tensors."""
        self.device = device
        self.number = _number if promoted is None else _as_tensor(promoted)
        """What a number among the positional arguments is given as."""
        self.generators: list[tuple[int, torch.Generator]] = []
        self.together: dict[tuple[Any, ...], torch.Tensor] = {}
        """The sparse tensors of one run, by the objects that are their parts, layout and size."""
        self.args: list[Any] = [None] * len(args)
        self.kwargs: dict[str, Any] = {}
        self.operands: list[tuple[int, int]] = []
        """Positions that an operand fills, and which; the commonest hole, filled without a call."""
        self.built: list[tuple[int, Build]] = []
        self.built_kwargs: list[tuple[str, Build]] = []
        for position, value in enumerate(args):
            if isinstance(value, wire.In):
                self.operands.append((position, value.index))
            elif (build := self._build(value, self.number)) is not None:
                self.built.append((position, build))
            else:
                self.args[position] = self._constant(value)
        for name, value in kwargs.items():
            if (build := self._build(value)) is not None:
                self.built_kwargs.append((name, build))
            else:
                self.kwargs[name] = self._constant(value)
        self.positional = not kwargs and self.operands == [(i, i) for i in range(len(args))]
        """The arguments are the operands."""
        self.scales = not kwargs and args == [wire.In(0), wire.Number(0)]
        """The arguments are one operand and a number."""
        self.constants = tuple(self.args[len(self.operands) :])
        self.leading = not (self.built or self.built_kwargs) and self.operands == [(i, i) for i in range(len(self.operands))]
        """The arguments are the operands, then `constants`."""

    def _build(self, value: wire.Arg, number: Callable[[Any], Any] = _number) -> Build | None:
        """How an argument is made from operands and numbers; None for a constant."""
        if isinstance(value, (wire.In, wire.Number, wire.Generator)):
            index = value.index
            if isinstance(value, wire.In):
                return lambda ins, numbers: ins[index]
            if isinstance(value, wire.Number):
                return lambda ins, numbers: number(numbers[index])
            return lambda ins, numbers: self._generator(index, ins[index])
        if isinstance(value, wire.Sparse):
            return lambda ins, numbers: self._put_together(value, [ins[i] for i in value.parts])
        if isinstance(value, list) and any(self._build(v) is not None for v in value):
            if all(isinstance(v, wire.In) for v in value):
                indices = [v.index for v in value if isinstance(v, wire.In)]
                return lambda ins, numbers: [ins[i] for i in indices]
            parts = [self._build(v) or _always(self._constant(v)) for v in value]
            return lambda ins, numbers: [part(ins, numbers) for part in parts]
        return None

    def _put_together(self, given: wire.Sparse, parts: list[torch.Tensor]) -> torch.Tensor:
        """One tensor where a call names it twice: `out=` may be an operand."""
        key = (given.layout, given.size, *map(id, parts))
        if key not in self.together:
            self.together[key] = sparse.put_together(given, parts)
        return self.together[key]

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
        if isinstance(value, wire.Complex):
            return complex(value.real, value.imag)
        if isinstance(value, list):
            return [self._constant(v) for v in value]
        return value

    def _generator(self, index: int, state: torch.Tensor) -> torch.Generator:
        generator = torch.Generator("cpu" if state.numel() > 1024 else self.device)
        generator.set_state(state.cpu())
        self.generators.append((index, generator))
        return generator

    def fill(self, ins: list[Any], numbers: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        args = self.args[:]
        if self.together:
            self.together.clear()
        for position, index in self.operands:
            args[position] = ins[index]
        for position, build in self.built:
            args[position] = build(ins, numbers)
        if not self.built_kwargs:
            return args, self.kwargs
        return args, {**self.kwargs, **{name: build(ins, numbers) for name, build in self.built_kwargs}}

    def give_back_generators(self, ins: list[Any]) -> None:
        """Leave the advanced states where they came from."""
        for index, generator in self.generators:
            ins[index].copy_(generator.get_state())
        self.generators.clear()


def _always(value: Any) -> Build:
    return lambda ins, numbers: value


def _as_tensor(dtype: torch.dtype) -> Callable[[Any], Any]:
    """A number as a tensor of no dimension, made once: PyTorch would make one each time, for longer than it computes."""
    made: dict[float, torch.Tensor] = {}

    def convert(value: Any) -> Any:
        found = made.get(value)
        if found is None:
            if not value or not (type(value) is float or (type(value) is int and abs(value) <= EXACT_INTEGERS)):
                return _number(value)  # 0.0 and -0.0 are one key
            if len(made) >= MAX_NUMBERS:
                made.clear()
            found = made[value] = torch.tensor(value, dtype=dtype)
        return found

    return convert


MAX_NUMBERS = 64
EXACT_INTEGERS = 1 << 24
PROMOTED = {"float32": torch.float32, "float64": torch.float64}
"""Dtypes in which a number and a tensor of no dimension give the same bits."""
TAKES_NUMBERS = {f"aten::{name}.Tensor" for name in ("add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_")}
"""Operators whose second argument is a tensor, and for which PyTorch takes a number as well."""


def _promoted(define: wire.Define, device: torch.device) -> torch.dtype | None:
    if device.type != "cpu" or define.op not in TAKES_NUMBERS or len(define.args) != 2 or define.args[0] != wire.In(0):
        return None
    return PROMOTED.get(define.ins[0].dtype)


class Call:
    """A prepared call. `heard` turns true when it has run once and the client was told of what PyTorch said, `verified` when
    its first results were found to be what the client expects."""

    __slots__ = (
        "allocates", "autograd", "copied", "copies", "default_dtype", "define", "draws", "filler", "fills", "heard", "ins",
        "mask", "name", "op", "out_numbers", "outs", "positional", "raw", "resized", "sizes", "trust", "verified",
        "written",
    )  # fmt: skip

    def __init__(self, define: wire.Define, device: torch.device, number: Callable[[wire.Geometry], int]) -> None:
        _check_operands(define)
        self.define = define
        self.name = define.op
        self.op = table.find(define.op, device)
        self.raw = getattr(self.op, "_op", self.op)
        self.trust = trust.Trust(define, self.op) if isinstance(self.op, torch._ops.OpOverload) else None
        self.filler = Filler(device, define.args, define.kwargs, _promoted(define, device))
        self.default_dtype = _dtype(define.default_dtype)
        self.autograd = bool(define.requires_grad) or define.grad_mode
        self.positional = self.filler.positional and not self.autograd and self.default_dtype is DEFAULT_DTYPE
        self.ins = [number(g) for g in define.ins]
        self.outs = [g for g in define.outs if g is not None]
        self.out_numbers = [number(g) for g in self.outs]
        self.sizes = [size_bytes(g) for g in self.outs]
        self.written, self.resized = written(self.op, define.args, define.kwargs)
        self.copied = [] if self.trust is None else self.trust.overlapping
        """Operands that the kernel gets copies of."""
        if any(index in self.written for index in self.copied):
            raise RuntimeError(f"{define.op}: elements that it writes share memory; give it a copy of its own (`clone`)")
        self.mask = mask(self.op, define.args)
        self.draws = draws(self.op) or self.autograd
        nothing = bool(self.sizes) and not any(self.sizes)
        self.fills = not self.resized and (nothing or fills(define))
        """It writes every byte of what it makes."""
        self.allocates = allocates(define.op)
        self.heard = self.verified = False
        self.copies: list[bool] = [False] * len(self.outs)
        """Results that must be copied into storages of their own, laid out as the client expects."""

    def operands(self, memory: Memory, args: Sequence[Any]) -> tuple[list[Any], Sequence[Any]]:
        """The operands among the arguments of an operation, and its numbers. Raises as `Memory.operand`, or ValueError."""
        count = len(self.ins)
        ins = [memory.operand(i, g) for i, g in zip(args[:count], self.ins, strict=True)]
        for index in self.resized:  # `memory` keeps the tensor that has the geometry it had
            kept, resized = ins[index], aten.alias.default(ins[index])
            ins = [resized if tensor is kept else tensor for tensor in ins]
        for index in self.copied:
            ins[index] = ins[index].clone(memory_format=torch.contiguous_format)
        return ins, args[count:]


Direct = Callable[[Storages, Any], None]
"""Runs an `Op`, which it takes for one of the client's: an id for its result, ids and numbers where they belong."""


def direct(call: Call, memory: Memory) -> Direct | None:
    """The shortest way to run a verified call that makes one result and changes nothing else; None for any other call.

    It raises whatever comes up (an operand seen through a new view, a poisoned one, an error of the operator): the call is
    then run anew, the careful way, which tells these apart.
    """
    op = call.op
    single = isinstance(op, torch._ops.OpOverload) and [str(r.type) for r in op._schema.returns] == ["Tensor"]
    copies = any(call.copies) or call.copied
    if not single or call.written or call.draws or copies or call.default_dtype is not DEFAULT_DTYPE:
        return None
    if call.allocates and memory.device.type != "cpu":  # whose memory is filled after the call
        return None
    way = _shortest(call) if call.fills else _zeroed(_shortest(call), memory.zeroing)
    if call.trust is not None and call.trust.looks:
        way = _unshared(way, memory.zeroing)
    return way if call.sizes[0] < COUNTED_FROM_BYTES else _counted(way, memory, call.sizes[0])


def _zeroed(way: Direct, zeroing: Zeroing) -> Direct:
    def run(storages: Storages, item: Any) -> None:
        if not zeroing.needed:
            return way(storages, item)
        with zeroing:
            way(storages, item)

    return run


def _unshared(way: Direct, zeroing: Zeroing) -> Direct:
    """Of a call whose operands' elements are looked at where sessions share a worker."""

    def run(storages: Storages, item: Any) -> None:
        if zeroing.needed:
            raise RuntimeError("its operands are to be looked at")
        way(storages, item)

    return run


def _counted(way: Direct, memory: Memory, size: int) -> Direct:
    def run(storages: Storages, item: Any) -> None:
        way(storages, item)
        memory.made(item.out, size)

    return run


def _shortest(call: Call) -> Direct:
    raw, ins, (out,), filler = call.raw, call.ins, call.out_numbers, call.filler
    fill, constants, kwargs = filler.fill, filler.constants, filler.kwargs

    def two(storages: Storages, item: Any) -> None:
        a, b = item.args
        storages[item.out] = {out: raw(storages[a][ins[0]], storages[b][ins[1]])}

    def scale(storages: Storages, item: Any) -> None:
        a, number = item.args
        storages[item.out] = {out: raw(storages[a][ins[0]], filler.number(number))}

    def one(storages: Storages, item: Any) -> None:
        (a,) = item.args
        storages[item.out] = {out: raw(storages[a][ins[0]], *constants, **kwargs)}

    def any_number(storages: Storages, item: Any) -> None:
        given = item.args
        args, kwargs = fill([storages[i][g] for i, g in zip(given, ins, strict=False)], given[len(ins) :])
        storages[item.out] = {out: raw(*args, **kwargs)}

    if call.positional and len(ins) == 2:
        return two
    if filler.scales:
        return scale
    return one if filler.leading and len(ins) == 1 else any_number


NAMING = (wire.In, wire.Generator)


def _check_operands(define: wire.Define) -> None:
    """Raises ProtocolError where the template names an operand that the call does not have."""
    for value in (*define.args, *define.kwargs.values()):
        for one in value if isinstance(value, list) else (value,):
            named = one.parts if isinstance(one, wire.Sparse) else [one.index] if isinstance(one, NAMING) else []
            for index in named:
                if not 0 <= index < len(define.ins):
                    raise ProtocolError(f"{define.op}: operand {index} of {len(define.ins)}")


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ProtocolError(f"unknown dtype {name!r}")
    return DTYPES[name]
