"""Looking inside: recorded instructions, the worker's counters, where a tensor lives. Frozen copies; it disturbs nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from gt.client.session.process import process
from gt.client.stream import geometry, operands, sites
from gt.client.stream.definitions import definitions
from gt.client.stream.segment import recorder
from gt.wire import instructions as wire
from gt.wire.messages import WorkerInfo, WorkerStats


@dataclass(frozen=True)
class Place:
    """Where a tensor lives: on `workers`, of which there is one unless a sharding is in force.

    `storage` is the id of its storage, `size_bytes` the storage's size.
    """

    session: int
    workers: tuple[WorkerInfo, ...]
    storage: int
    size_bytes: int


@dataclass(frozen=True)
class Recorded:
    """An instruction. `op` is an ATen overload, or for other instructions their kind (`Upload`, `Free`, ...).

    `outs` and `ins` are ids of storages; `line` is the user's line that issued it (`FILE:LINE`, empty if unknown).
    """

    op: str
    outs: tuple[int, ...] = ()
    ins: tuple[int, ...] = ()
    numbers: tuple[wire.Scalar, ...] = ()
    line: str = ""


def tape() -> tuple[Recorded, ...]:
    """The most recent instructions, in program order: the segment sent last, and those recorded since."""
    with recorder.lock:
        return tuple(map(_recorded, (*recorder.segment.sent, *recorder.segment)))


def _recorded(item: wire.Instruction) -> Recorded:
    line = sites.describe(getattr(item, "site", 0))
    match item:
        case int():
            return Recorded("Free", ins=(item,))
        case wire.Op():
            op, count = definitions.described(item.call)
            ids = tuple(i for i in item.args[:count] if isinstance(i, int))
            return Recorded(op, item.outs, ids, item.args[count:], line)
        case wire.Query():
            return Recorded(item.op, ins=tuple(i for i, _ in item.ins), line=line)
        case wire.Upload() | wire.LoadFile():
            return Recorded(type(item).__name__, outs=(item.id,), line=line)
        case wire.Fetch():
            return Recorded("Fetch", ins=(item.id,))
    return Recorded(type(item).__name__)


def stats(worker: int = 0) -> WorkerStats:
    """What a worker counts for this session, once everything recorded so far is done.

    `worker`: which one, of those of `GT_CONFIG`'s mesh, in the order of `Place.workers`. Raises IndexError for another.
    """
    return process.session().worker_stats()[worker]


def where(tensor: torch.Tensor) -> Place:
    """Where a remote tensor lives. Raises ValueError for a local one, and like a fetch if computing its value failed."""
    if tensor.device.type != "remote":
        raise ValueError(f"a tensor on {tensor.device} lives in this process (pid {os.getpid()})")
    storage, spec, _ = operands.operand(tensor)
    nothing = geometry.intern(torch.Size((0,)), (1,), 0, spec.dtype).to_wire()
    process.session().ask(lambda number: wire.Fetch(number, storage, nothing))  # fails if the worker does not have it
    welcome = process.session().welcome
    return Place(welcome.session, welcome.workers, storage, tensor.untyped_storage().nbytes())
