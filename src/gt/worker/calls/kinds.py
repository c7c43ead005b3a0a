"""Kinds: what definitions have in common that differ in nothing but sizes. It is found out once, however many lengths a
program has."""

from __future__ import annotations

from typing import Any

import msgspec
import torch

from gt.wire import instructions as wire
from gt.worker.calls.arguments import Arguments, check_indices
from gt.worker.calls.scalars import converter
from gt.worker.geometry import dtype_of
from gt.worker.operators import bindings, facts, table

DEFAULT_DTYPE = torch.float32
"""The default dtype of a worker's process between any two calls."""
MOST = 4096
"""The kinds that a worker keeps; beyond that all are forgotten, and found out again when needed."""
_kinds: dict[tuple[Any, ...], Kind] = {}
_encode = msgspec.msgpack.Encoder().encode


class Kind:
    """All of a prepared call that follows from its operator, its arguments and the dtypes of its operands.

    Raises NotImplementedError for an operator outside the table, and ProtocolError for a definition that makes no sense.
    """

    __slots__ = (
        "allocates", "arguments", "autograd", "default_dtype", "differentiated", "draws", "drops", "fills", "flat", "op",
        "operands_only", "output_mask", "raw", "resized", "written",
    )  # fmt: skip

    def __init__(self, define: wire.Define, device: torch.device) -> None:
        check_indices(define)
        self.op = table.find(define.op, device)
        self.raw = bindings.quickest(self.op)
        self.arguments = Arguments(device, define.args, define.kwargs, converter(define, device))
        self.default_dtype = dtype_of(define.default_dtype)
        self.autograd = bool(define.requires_grad) or define.grad_mode
        self.operands_only = self.arguments.are_operands and not self.autograd and self.default_dtype is DEFAULT_DTYPE
        """It can be run as `raw(*operands)`."""
        self.written, self.resized = facts.written(self.op, define.args, define.kwargs)
        """Operands (by index) that it writes, and those of them that it may resize."""
        self.output_mask = facts.output_mask(self.op, define.args)
        self.flat = not self.written and self.output_mask is None and facts.returns_no_list(self.op)
        """It returns fresh tensors, one or several, and nothing else."""
        self.draws = facts.draws(self.op) or self.autograd
        self.drops = self.autograd and facts.drops(self.op, define)
        self.differentiated = facts.differentiated(define) if self.autograd else []
        """For each operand, whether it gets a gradient."""
        self.fills = not self.resized and facts.fills(define)
        """It writes every byte of its results."""
        self.allocates = facts.allocates(define.op)
        """It writes none of them."""


def kind_of(define: wire.Define, device: torch.device) -> Kind:
    """The kind of a definition. Raises as `Kind`."""
    given = _encode((define.args, define.kwargs))  # bytes tell `1`, `1.0` and `True` apart
    dtypes = tuple([g.dtype for g in define.ins])
    key = (define.op, given, dtypes, define.requires_grad, define.grad_mode, define.default_dtype, device)
    found = _kinds.get(key)
    if found is None:
        found = Kind(define, device)
        if not found.arguments.keeps_state:
            if len(_kinds) >= MOST:
                _kinds.clear()
            _kinds[key] = found
    return found
