"""Bytes to messages and back. A frame that is not a message in the expected direction raises `ProtocolError`."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from gt.errors import ProtocolError
from gt.wire import instructions
from gt.wire.instructions import Instruction
from gt.wire.messages import FromClient, FromWorker, ToClient, ToWorker

M = TypeVar("M")
_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode


class Decoder(Generic[M]):
    """Decodes the first frame of a message for one direction."""

    def __init__(self, kind: object) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def __call__(self, frame: bytes | memoryview) -> M:
        """The message in a frame. Raises ProtocolError."""
        try:
            return self._decode(frame)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise ProtocolError(f"not a message of this protocol: {error}") from None


def pack(items: list[Instruction]) -> msgspec.Raw:
    """Instructions as one value that a dispatcher can pass on without decoding it."""
    return msgspec.Raw(encode(items))


def is_sendable(item: Instruction) -> bool:
    """Whether an instruction can be encoded at all."""
    try:
        encode(item)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


unpack: Decoder[list[Instruction]] = Decoder(list[Instruction])
unpack_from_client: Decoder[list[instructions.FromClient]] = Decoder(list[instructions.FromClient])
"""Without what only a planner may say."""


def count(packed: msgspec.Raw) -> int:
    """How many instructions were packed, read from the head. Raises ProtocolError if it is not a list."""
    view = memoryview(packed)
    if len(view) and view[0] & 0xF0 == 0x90:
        return view[0] & 0x0F
    if len(view) > 2 and view[0] == 0xDC:
        return int.from_bytes(view[1:3], "big")
    if len(view) > 4 and view[0] == 0xDD:
        return int.from_bytes(view[1:5], "big")
    raise ProtocolError("a batch is a list of instructions")


from_client: Decoder[FromClient] = Decoder(FromClient)
to_client: Decoder[ToClient] = Decoder(ToClient)
from_worker: Decoder[FromWorker] = Decoder(FromWorker)
to_worker: Decoder[ToWorker] = Decoder(ToWorker)
