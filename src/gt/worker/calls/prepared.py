"""A prepared call: all that can be found out once for each definition, so that a run looks nothing up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gt.wire import instructions as wire
from gt.worker.calls.arguments import Arguments, check_indices
from gt.worker.calls.scalars import converter
from gt.worker.checks.call_checks import CallChecks
from gt.worker.geometry import dtype_of, storage_bytes
from gt.worker.memory import Memory
from gt.worker.operators import facts, table

aten = torch.ops.aten
DEFAULT_DTYPE = torch.float32
"""The default dtype of a worker's process between any two calls."""


class PreparedCall:
    """A definition, ready to run. `number`: a geometry's number in the session's memory.

    Raises NotImplementedError for an operator outside the table, ProtocolError for a definition that makes no sense, and
    RuntimeError for operands that its kernel must not get.
    """

    __slots__ = (
        "allocates", "arguments", "autograd", "checks", "copied", "copies", "default_dtype", "define", "draws", "fills",
        "has_run", "ins", "name", "op", "operands_only", "out_numbers", "output_mask", "outs", "raw", "resized", "sizes",
        "verified", "written",
    )  # fmt: skip

    def __init__(self, define: wire.Define, device: torch.device, number: Callable[[wire.Geometry], int]) -> None:
        check_indices(define)
        self.define = define
        self.name = define.op
        self.op = table.find(define.op, device)
        self.raw = getattr(self.op, "_op", self.op)
        """The operator without PyTorch's Python layer around it."""
        self.checks = CallChecks(define, self.op) if isinstance(self.op, torch._ops.OpOverload) else None
        self.arguments = Arguments(device, define.args, define.kwargs, converter(define, device))
        self.default_dtype = dtype_of(define.default_dtype)
        self.autograd = bool(define.requires_grad) or define.grad_mode
        self.operands_only = self.arguments.are_operands and not self.autograd and self.default_dtype is DEFAULT_DTYPE
        """It can be run as `raw(*operands)`."""
        self.ins = [number(g) for g in define.ins]
        """Geometry numbers of the operands."""
        self.outs = [g for g in define.outs if g is not None]
        """Geometries of the results."""
        self.out_numbers = [number(g) for g in self.outs]
        self.sizes = [storage_bytes(g) for g in self.outs]
        """Bytes of the results."""
        self._set_operand_facts(define)
        self._set_memory_facts(define)
        self.has_run = False
        """It has run once: PyTorch's warnings were captured, and the client is told of them."""
        self.verified = False
        """Its first results were what the client expects."""
        self.copies: list[bool] = [False] * len(self.outs)
        """For each result: whether it must be copied into a storage of its own, with the strides that the client expects."""

    def _set_operand_facts(self, define: wire.Define) -> None:
        self.written, self.resized = facts.written(self.op, define.args, define.kwargs)
        """Operands (by index) that it writes, and those of them that it may resize."""
        self.copied = [] if self.checks is None else self.checks.overlapping
        """Operands (by index) of which the kernel gets copies."""
        if any(index in self.written for index in self.copied):
            raise RuntimeError(f"{define.op}: elements that it writes share memory; give it a copy of its own (`clone`)")
        self.output_mask = facts.output_mask(self.op, define.args)
        self.draws = facts.draws(self.op) or self.autograd

    def _set_memory_facts(self, define: wire.Define) -> None:
        empty = bool(self.sizes) and not any(self.sizes)
        self.fills = not self.resized and (empty or facts.fills(define))
        """It writes every byte of its results."""
        self.allocates = facts.allocates(define.op)
        """It writes none of them."""

    def operands(self, memory: Memory, args: Sequence[Any]) -> tuple[list[Any], Sequence[Any]]:
        """The operands among the arguments of an operation, and its numbers. Raises as `Memory.operand`, or ValueError."""
        count = len(self.ins)
        ins = [memory.operand(i, g) for i, g in zip(args[:count], self.ins, strict=True)]
        for index in self.resized:  # `memory` keeps a tensor that still has the old geometry
            kept, resized = ins[index], aten.alias.default(ins[index])
            ins = [resized if tensor is kept else tensor for tensor in ins]
        for index in self.copied:
            ins[index] = ins[index].clone(memory_format=torch.contiguous_format)
        return ins, args[count:]
