"""Bytes to messages and back. A frame that is not a message of the expected side is a `ProtocolError`."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from gt.errors import ProtocolError
from gt.wire.messages import FromClient, FromWorker, ToClient, ToWorker

M = TypeVar("M")
_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode


class Decoder(Generic[M]):
    """Decodes the first frame of a message for one direction."""

    def __init__(self, kind: object) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def __call__(self, frame: bytes | memoryview) -> M:
        try:
            return self._decode(frame)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise ProtocolError(f"not a message of this protocol: {error}") from None


from_client: Decoder[FromClient] = Decoder(FromClient)
to_client: Decoder[ToClient] = Decoder(ToClient)
from_worker: Decoder[FromWorker] = Decoder(FromWorker)
to_worker: Decoder[ToWorker] = Decoder(ToWorker)
