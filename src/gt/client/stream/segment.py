"""The segment: the instructions that a program has recorded and not yet sent."""

from __future__ import annotations

import threading

from gt import waiting
from gt.wire import instructions as wire
from gt.wire.shared import Frame

LOOK_S = 0.05
"""Seconds after which a thread that waits for the lock lets handlers run."""


class Segment(list[wire.Instruction]):
    """Instructions in program order. The session that owns the segment sends and removes them.

    The end of a storage is recorded at the point where the program let go of it, so that a worker holds no more than a
    local process would.
    """

    __slots__ = ("frames", "limit", "sent")

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        """The number of instructions that make it full: whoever records the last of them sends the segment."""
        self.frames: list[Frame] = []
        """The bytes of its uploads. Changed together with the instructions, under the recorder's lock."""
        self.sent: list[wire.Instruction] = []
        """The instructions that were sent last."""

    def is_full(self) -> bool:
        """Whether it has reached its limit and is to be sent."""
        return len(self) >= self.limit

    def add_frame(self, data: Frame) -> int:
        """Keep the bytes of an upload; returns the number by which its instruction names them."""
        self.frames.append(data)
        return len(self.frames) - 1

    def mark_sent(self, items: list[wire.Instruction]) -> None:
        """Remove what was sent; others may have recorded more behind it meanwhile."""
        del self[: len(items)]
        self.sent = items
        self.frames.clear()

    def drop(self) -> None:
        """Discard what was recorded for a worker that is gone."""
        self.clear()
        self.frames.clear()


class Lock:
    """A lock that whoever has it may take again. While another thread has it, handlers of signals run."""

    __slots__ = ("_lock", "release")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.release = self._lock.release

    def acquire(self, blocking: bool = True) -> bool:
        """Take it; without `blocking`, only if no other thread has it. Returns whether it was taken."""
        taken = self._lock.acquire(blocking=False)
        while blocking and not taken:
            waiting.sleep(0)
            taken = self._lock.acquire(timeout=LOOK_S)
        return taken

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


class Recorder:
    """The place where this process records: the segment of its session, or the one that its next session will own."""

    __slots__ = ("lock", "segment")

    def __init__(self) -> None:
        self.segment = Segment(limit=0)
        self.lock = Lock()
        """Guards what changes together: a segment with its frames and definitions, and all that a flush does."""

    def new_segment(self, limit: int) -> Segment:
        """An empty segment of the same kind."""
        return type(self.segment)(limit)


recorder = Recorder()
