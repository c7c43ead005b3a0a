"""A worker that knows sizes and computes nothing: what is fetched from it is zeros."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from typing import Any

from gt.planning.geometry import item_bytes
from gt.wire import codec, messages
from gt.wire import instructions as wire
from gt.wire.messages import Answer, Failure

RANDOM_STATE_BYTES = 5056
"""Of a CPU generator."""
Reply = tuple[Answer, list[bytes]]
VALUES_NEEDED = "{} depends on values, and `gt explain` runs the step on shapes alone"


MEMORY_BYTES = 1 << 40
"""What such a worker says it has, all of it free: a program that asks first goes on, and the report says what it needs."""
STATS = messages.WorkerStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, free_bytes=MEMORY_BYTES, total_bytes=MEMORY_BYTES)


def info(name: str, device: str) -> messages.WorkerInfo:
    """How such a worker introduces itself."""
    return messages.WorkerInfo(name, os.getpid(), socket.gethostname(), device, "", MEMORY_BYTES, None)


class ShapeWorker:
    """Answers requests. `refused` is told the operator of a query, whose results nobody knows without the values."""

    def __init__(self, refused: Callable[[str], None]) -> None:
        self._refused = refused
        self._handlers: dict[type, Callable[[Any], Reply]] = {
            wire.Fetch: self._fetch,
            wire.Query: self._query,
            wire.GetRandomState: lambda item: (Answer(item.request, 0), [bytes(RANDOM_STATE_BYTES)]),
            wire.SaveFile: lambda item: (Answer(item.request), []),
            wire.Synchronize: lambda item: (Answer(item.request), []),
            wire.Stats: lambda item: (Answer(item.request, stats=[STATS]), []),
        }

    def take(self, message: messages.Execute, workers: int = 1) -> tuple[messages.Done, list[Any]]:
        """The answer to a slice, and its frames, for all `workers` of the session."""
        answers: list[Answer] = []
        frames: list[bytes] = []
        for item in codec.unpack(message.items):
            handler = self._handlers.get(type(item))
            if handler is not None:
                answer, own = handler(item)
                place = len(frames) if own else -1
                answers.append(Answer(answer.request, place, answer.failure, stats=answer.stats * workers))
                frames += own
        return messages.Done(message.session, message.seq, answers), frames

    def _fetch(self, item: wire.Fetch) -> Reply:
        return Answer(item.request), [bytes(math.prod(item.geometry.size) * item_bytes(item.geometry.dtype))]

    def _query(self, item: wire.Query) -> Reply:
        self._refused(item.op)
        failure = Failure("RefusedError", VALUES_NEEDED.format(item.op), site=item.site)
        return Answer(item.request, failure=failure), []
