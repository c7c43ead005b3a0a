"""A prepared call: all that can be found out once for each definition, so that a run looks nothing up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gt.wire import instructions as wire
from gt.worker.calls.kinds import kind_of
from gt.worker.checks.call_checks import CallChecks
from gt.worker.geometry import storage_bytes
from gt.worker.memory import Memory
from gt.worker.usage import COUNTED_FROM_BYTES

aten = torch.ops.aten


class PreparedCall:
    """A definition, ready to run. `number`: a geometry's number in the session's memory.

    Raises NotImplementedError for an operator outside the table, ProtocolError for a definition that makes no sense, and
    RuntimeError for operands that its kernel must not get.
    """

    __slots__ = (
        "allocates", "arguments", "autograd", "checks", "copied", "copies", "counted", "default_dtype", "define",
        "differentiated", "draws", "drops", "fills", "flat", "has_run", "ins", "name", "op", "operands_only", "out_numbers",
        "output_mask", "outs", "raw", "resized", "sizes", "verified", "written",
    )  # fmt: skip

    def __init__(self, define: wire.Define, device: torch.device, number: Callable[[wire.Geometry], int]) -> None:
        kind = kind_of(define, device)
        self.define, self.name = define, define.op
        self.op, self.raw, self.arguments = kind.op, kind.raw, kind.arguments
        self.default_dtype, self.autograd, self.operands_only = kind.default_dtype, kind.autograd, kind.operands_only
        self.written, self.resized, self.output_mask, self.flat = kind.written, kind.resized, kind.output_mask, kind.flat
        self.draws, self.drops, self.differentiated, self.allocates = (
            kind.draws, kind.drops, kind.differentiated, kind.allocates,
        )  # fmt: skip
        self.checks = CallChecks(define, self.op) if isinstance(self.op, torch._ops.OpOverload) else None
        self.copied = [] if self.checks is None else self.checks.overlapping
        """Operands (by index) of which the kernel gets copies."""
        if self.copied and any(index in self.written for index in self.copied):
            raise RuntimeError(f"{define.op}: elements that it writes share memory; give it a copy of its own (`clone`)")
        self.ins = [number(g) for g in define.ins]
        """Geometry numbers of the operands."""
        self.outs = [g for g in define.outs if g is not None]
        """Geometries of the results."""
        self.out_numbers = [number(g) for g in self.outs]
        self.sizes = [storage_bytes(g) for g in self.outs]
        """Bytes of the results."""
        largest = max(self.sizes, default=0)
        self.counted = largest >= COUNTED_FROM_BYTES
        """One of the results counts towards the session's peak."""
        self.fills = kind.fills or (not self.resized and bool(self.sizes) and not largest)
        """It writes every byte of its results."""
        self.has_run = False
        """It has run once: PyTorch's warnings were captured, and the client is told of them."""
        self.verified = False
        """Its first results were what the client expects."""
        self.copies: list[bool] = [False] * len(self.outs)
        """For each result: whether it must be copied into a storage of its own, with the strides that the client expects."""

    def operands(self, memory: Memory, args: Sequence[Any]) -> tuple[list[Any], Sequence[Any]]:
        """The operands among the arguments of an operation, and its numbers. Raises as `Memory.operand`, or ValueError."""
        count = len(self.ins)
        storages, given = memory.storages, args[:count]
        try:
            ins = [storages[i][g] for i, g in zip(given, self.ins, strict=True)]
        except (KeyError, TypeError):  # a view that is still missing, a storage that is not there or poisoned
            ins = [memory.operand(i, g) for i, g in zip(given, self.ins, strict=True)]
        for index in self.resized:  # `memory` keeps a tensor that still has the old geometry
            kept, resized = ins[index], aten.alias.default(ins[index])
            ins = [resized if tensor is kept else tensor for tensor in ins]
        for index in self.copied:
            ins[index] = ins[index].clone(memory_format=torch.contiguous_format)
        return ins, args[count:]
