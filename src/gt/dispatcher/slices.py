"""Cutting a batch into the slices that workers take."""

from __future__ import annotations

import msgspec

from gt.errors import ProtocolError
from gt.wire import codec
from gt.wire import instructions as wire
from gt.wire.messages import Run
from gt.wire.shared import Frame


class BatchSlice(msgspec.Struct, frozen=True):
    """A part of a batch, packed, with the frames it needs. `ends`: the number of the batch that it completes, or 0."""

    items: msgspec.Raw
    frames: list[Frame]
    ends: int


def cut(run: Run, frames: list[Frame], size: int) -> list[BatchSlice]:
    """Slices of at most `size` instructions; a batch that fits into one is not decoded.

    Raises ProtocolError if a batch that must be cut is malformed.
    """
    if codec.count(run.items) <= size:
        return [BatchSlice(run.items, frames, run.seq)]
    return cut_items(codec.unpack(run.items), frames, size, run.seq)


def cut_items(items: list[wire.Instruction], frames: list[Frame], size: int, ends: int) -> list[BatchSlice]:
    """Slices of at most `size` instructions, of which the last ends batch `ends`.

    Raises ProtocolError where an instruction names a frame that is not there.
    """
    last = max(len(items) - 1, 0) // size * size
    return [_slice(items[i : i + size], frames, ends if i == last else 0) for i in range(0, last + 1, size)]


def _slice(items: list[wire.Instruction], frames: list[Frame], ends: int) -> BatchSlice:
    numbers: dict[int, int] = {}
    renumbered: list[wire.Instruction] = []
    for item in items:
        if isinstance(item, (wire.Upload, wire.SetRandomState)):
            if not 0 <= item.frame < len(frames):
                raise ProtocolError(f"an instruction names frame {item.frame} of {len(frames)}")
            item = msgspec.structs.replace(item, frame=numbers.setdefault(item.frame, len(numbers)))
        renumbered.append(item)
    return BatchSlice(codec.pack(renumbered), [frames[f] for f in numbers], ends)
