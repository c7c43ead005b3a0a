"""The memory that workers have left. A call that makes much waits for them, so that a lack of it is raised there.

Programs that look for the largest batch they can have make tensors until one does not fit, catch that, and try less.
"""

from __future__ import annotations

from collections.abc import Iterable

from gt.client.session.configured import configured
from gt.client.session.process import process
from gt.client.stream.geometry import TensorSpec
from gt.wire import instructions as wire

COUNTED_FROM_BYTES = 16 << 20
"""Results of at least this many bytes count. Making one takes any worker longer than counting it takes the client."""
SHARE = 2
"""The workers are asked when this part of what they had left at the last question was made since, freed or not."""


def large(made: Iterable[TensorSpec | None]) -> int:
    """The bytes of results, or 0 where they are too few to count."""
    size_bytes = sum(spec.size_bytes for spec in made if spec is not None)
    return size_bytes if size_bytes >= COUNTED_FROM_BYTES else 0


class Room:
    """How much may be made before the workers are asked again."""

    def __init__(self) -> None:
        self._left_bytes = 0
        process.when_closed.append(self._forget)

    def take(self, size_bytes: int) -> None:
        """So many bytes are to be made by what was just recorded; waits for that if they may be too many.

        Raises what went wrong since the last wait, such as PyTorch's error for memory that could not be allocated.
        """
        self._left_bytes -= size_bytes
        if self._left_bytes < 0 and not configured.on_shapes:
            session = process.session()
            session.ask(wire.Synchronize)
            self._left_bytes = min(stats.free_bytes for stats in session.worker_stats()) // SHARE

    def _forget(self) -> None:
        self._left_bytes = 0


room = Room()
