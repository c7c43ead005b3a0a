"""The pace of a session: after how many instructions it sends.

A worker that has just answered has nothing to do, so the first segment is short; each message costs all three processes
time, so the next ones are longer. A program that reads a value now and then does so after about as many instructions each
time. As that point comes near the segments become shorter again: what the worker has not begun when the program asks, the
program waits for.
"""

from __future__ import annotations

from gt.config import settings

FIRST = 64
"""The size of the first segment after an answer where nobody knows how many will follow, and the least worth a message."""
SHARE = 0.6
"""The part of what is expected to be recorded until the next request that goes into one segment."""


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
        return self._limit(2 * FIRST if max(self._laps) > 2 * FIRST else FIRST)

    def _limit(self, most: int) -> int:
        left = max(self._laps) - self._sent
        if left > FIRST:
            most = min(most, max(FIRST, int(SHARE * left)))
        return min(most, settings().segment_limit)
