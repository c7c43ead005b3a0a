"""The segment: what a program has recorded and not yet sent."""

from __future__ import annotations

import threading

from gt.wire import instructions as wire
from gt.wire.shared import Frame


class Segment(list[wire.Instruction]):
    """Instructions in program order, which the session that owns the segment sends and removes.

    A storage's end stands in it where the program let go of the storage, so that a worker holds no more than a local
    process.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        """Instructions that make it full: whoever records one more sends it."""
        self.frames: list[Frame] = []
        """The bytes of its uploads; changes together with the instructions, under the recorder's lock."""
        self.sent: list[wire.Instruction] = []
        """What was sent last."""

    def is_full(self) -> bool:
        return len(self) >= self.limit

    def add_frame(self, data: Frame) -> int:
        """Keep the bytes of an upload; returns the number by which its instruction names them."""
        self.frames.append(data)
        return len(self.frames) - 1

    def mark_sent(self, items: list[wire.Instruction]) -> None:
        """Remove what was sent. Others may have recorded more meanwhile, behind it."""
        del self[: len(items)]
        self.sent = items
        self.frames.clear()

    def drop(self) -> None:
        """Forget what was recorded: it was meant for a worker that is gone."""
        self.clear()
        self.frames.clear()


class Recorder:
    """Where this process records: the segment of its session, or the one that its next session will own."""

    __slots__ = ("lock", "segment")

    def __init__(self) -> None:
        self.segment = Segment(limit=0)
        self.lock = threading.RLock()
        """Guards what must change together: a segment with its frames and definitions, and everything a flush does."""


recorder = Recorder()
