"""Runs calls on a worker, on operands that are given as their elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gt.placement.digit import View
from gt.wire import codec, messages
from gt.wire import instructions as wire
from gt.worker.calls.prepared import PreparedCall
from gt.worker.execute import Worker, complete
from tests.oracle.sharding.recorded import plain


@dataclass
class Ran:
    """What a call made, by result, and what it left in its operands. As in memory, without conj and neg bits."""

    outs: dict[int, torch.Tensor]
    operands: list[torch.Tensor]


class Bench:
    """Runs calls on a worker of its own."""

    def __init__(self) -> None:
        self.worker = Worker("cpu")
        complete(self.worker.take(messages.Execute(1, 1, codec.pack([])), []))

    def prepare(self, define: wire.Define) -> PreparedCall:
        return PreparedCall(define, self.worker.host.device, self.worker.host.sessions[1].memory.number)

    def run(self, call: PreparedCall, operands: Sequence[torch.Tensor], numbers: Sequence[Any]) -> Ran:
        """Run a call; operands are given as their elements, and are laid out as the call says."""
        host, session = self.worker.host, self.worker.host.sessions[1]
        memory, define = session.memory, call.define
        for id, (geometry, elements) in enumerate(zip(define.ins, operands, strict=True)):
            memory.storages[id] = {memory.number(plain(geometry)): _laid_out(geometry, elements)}
        ids = [len(define.ins) + k for k, g in enumerate(g for g in define.outs if g is not None)]
        item = wire.Op(0, tuple(ids), (*range(len(define.ins)), *numbers), 0)
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            ins, given = call.operands(memory, item.args)
            result = host.runner.run(session, call, ins, given, 0)
            host.runner.keep(session, call, item, result, ins)
        numbered = [(o, g) for o, g in enumerate(define.outs) if g is not None]
        outs = {o: memory.tensor(id, plain(g)).clone() for id, (o, g) in zip(ids, numbered, strict=True)}
        after = [memory.tensor(i, plain(g)).clone() for i, g in enumerate(define.ins)]
        memory.storages.clear()
        return Ran(outs, after)


def _laid_out(geometry: wire.Geometry, elements: torch.Tensor) -> torch.Tensor:
    """The elements in a storage of their own, with the geometry's strides and offset."""
    view = View(geometry.size, geometry.stride, geometry.offset)
    storage = torch.zeros(view.extent, dtype=elements.dtype)
    where = torch.full(geometry.size, geometry.offset, dtype=torch.int64)
    for dim, (n, step) in enumerate(zip(geometry.size, geometry.stride, strict=True)):
        where += (torch.arange(n) * step).view(-1, *(1,) * (len(geometry.size) - dim - 1))
    if elements.numel():
        bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(elements.dtype.itemsize)
        if bits is None or elements.is_complex():
            storage[where.flatten()] = elements.flatten()
        else:
            storage.view(bits)[where.flatten()] = elements.contiguous().flatten().view(bits)
    return storage.as_strided(geometry.size, geometry.stride, geometry.offset)
