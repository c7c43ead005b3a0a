"""The pace of a session: after how many instructions it sends.

A worker that has just answered has nothing to do, so the first segment is short; each message costs all three processes
time, so the next ones are longer. A program that reads a value now and then does so after about as many instructions each
time. Before that point a segment has at most half of what is left: what the worker has not begun when the program asks, the
program waits for.
"""

from __future__ import annotations

from gt.config import settings

FIRST = 64
"""The size of the first segment after an answer, and the least worth a message."""


class Pace:
    """Counts what is sent between two answers, and says how large the next segment is."""

    def __init__(self) -> None:
        self._sent = 0
        """The instructions sent since the last answer."""
        self._laps = (0, 0)
        """How many were sent between the answers before, the last one first."""

    def after_sending(self, count: int, limit: int) -> int:
        """The size of the segment that follows one of `count` instructions, whose limit was `limit`."""
        self._sent += count
        return self._limit(2 * limit)

    def after_answer(self) -> int:
        """The size of the first segment after an answer."""
        self._laps = self._sent, self._laps[0]
        self._sent = 0
        return self._limit(FIRST)

    def _limit(self, most: int) -> int:
        left = max(self._laps) - self._sent
        if left > 2 * FIRST:
            most = min(most, left // 2)
        return min(most, settings().segment_limit)
