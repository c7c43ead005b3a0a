"""Recording an instruction: it goes into the segment, which is sent when it is full."""

from __future__ import annotations

import torch

from gt.client.session.process import process
from gt.client.session.room import COUNTED_FROM_BYTES, room
from gt.client.stream.geometry import TensorSpec
from gt.client.stream.operands import operand
from gt.client.stream.segment import recorder
from gt.wire import instructions as wire
from gt.wire.shared import Frame, share

UPLOAD_AT_ONCE_BYTES = 1 << 20
"""Uploads of at least this many bytes are sent at once."""


def record(instruction: wire.Instruction) -> None:
    """Append an instruction; sends the segment if that makes it full. Raises what `Session.flush` raises."""
    segment = recorder.segment
    segment.append(instruction)
    if segment.is_full():
        process.flush()


def record_op(call: int, made: list[torch.Tensor], args: tuple[wire.Scalar, ...], site: int, large_bytes: int = 0) -> None:
    """Record a run of a defined call; `made` are its results, as `operands.make` returned them, of `large_bytes` in all if
    that is much. Raises as `record`, and as `Room.take`."""
    ids = tuple(operand(t)[0] for t in made)
    record(wire.Op(call, ids[0] if len(ids) == 1 else ids, args, site))
    if large_bytes:
        room.take(large_bytes)


def upload(source: torch.Tensor, number: int, spec: TensorSpec, site: int) -> None:
    """Record that the elements of a CPU tensor go into the storage `number`, seen through `spec`, in its dtype."""
    with recorder.lock:
        data = bytes_of(source.to(spec.dtype))
        segment = recorder.segment
        segment.append(wire.Upload(number, spec.to_wire(), segment.add_frame(data), site))
    if len(data) >= UPLOAD_AT_ONCE_BYTES or segment.is_full():
        process.flush()
    if len(data) >= COUNTED_FROM_BYTES:
        room.take(len(data))


def bytes_of(tensor: torch.Tensor) -> Frame:
    """The elements of a CPU tensor, row-major. A copy: the caller may change the tensor before the segment is sent."""
    return share(elements_of(tensor))


def elements_of(tensor: torch.Tensor) -> memoryview:
    """The elements of a CPU tensor, row-major; not a copy if they are in that order already."""
    whole = tensor.detach().resolve_conj().resolve_neg().contiguous()
    flat = whole.as_strided((whole.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
