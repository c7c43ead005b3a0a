"""Looking inside: what was recorded, what the worker counts, where a tensor lives. Frozen copies; nothing is disturbed."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from gt.client import geometry, record, session
from gt.wire import instructions as wire
from gt.wire.messages import WorkerInfo


@dataclass(frozen=True)
class Place:
    """Where a tensor lives. `size_bytes` is its storage's."""

    session: int
    worker: WorkerInfo
    storage: int
    size_bytes: int


def tape() -> tuple[wire.Instruction, ...]:
    """The instructions that were recorded and not yet sent, in program order."""
    return tuple(record.segment)


def stats() -> dict[str, int | float | str]:
    """What the worker counts for this session: storages, bytes, operations, errors, definitions, memory (bytes)."""
    answer, _ = session.current().ask(wire.Stats)
    return answer.stats


def where(tensor: torch.Tensor) -> Place:
    """Where a remote tensor lives. Raises ValueError for a local one, and what a fetch raises where it has no value."""
    if tensor.device.type != "remote":
        raise ValueError(f"a tensor on {tensor.device} lives in this process (pid {os.getpid()})")
    storage, spec, _ = record.operand(tensor)
    nothing = geometry.intern(torch.Size((0,)), (1,), 0, spec.dtype).to_wire()
    session.current().ask(lambda number: wire.Fetch(number, storage, nothing))  # the worker says whether it has it
    welcome = session.current().welcome
    return Place(welcome.session, welcome.worker, storage, tensor.untyped_storage().nbytes())
