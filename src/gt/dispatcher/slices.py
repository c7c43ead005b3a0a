"""Cutting a batch into the slices that workers take."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gt.errors import ProtocolError
from gt.wire import instructions as wire
from gt.wire.messages import Run


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a batch with the frames it needs. `ends`: the number of the batch that is done with it, or 0."""

    items: list[wire.Instruction]
    frames: list[memoryview]
    ends: int


def cut(run: Run, frames: list[memoryview], size: int) -> list[Slice]:
    """Slices of at most `size` instructions. Raises ProtocolError where an instruction names a frame that is not there."""
    if len(run.items) <= size:
        for item in run.items:
            if isinstance(item, (wire.Upload, wire.SetRandomState)):
                _check(item.frame, frames)
        return [Slice(run.items, frames, run.seq)]
    pieces = [run.items[i : i + size] for i in range(0, len(run.items), size)]
    return [_slice(p, frames, run.seq if p is pieces[-1] else 0) for p in pieces]


def _slice(items: list[wire.Instruction], frames: list[memoryview], ends: int) -> Slice:
    own: list[memoryview] = []
    renumbered: list[wire.Instruction] = []
    for item in items:
        if isinstance(item, (wire.Upload, wire.SetRandomState)):
            _check(item.frame, frames)
            own.append(frames[item.frame])
            item = msgspec.structs.replace(item, frame=len(own) - 1)
        renumbered.append(item)
    return Slice(renumbered, own, ends)


def _check(frame: int, frames: list[memoryview]) -> None:
    if not 0 <= frame < len(frames):
        raise ProtocolError(f"an instruction names frame {frame} of {len(frames)}")
