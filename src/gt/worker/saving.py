"""Safetensors files that are being written, tensor by tensor, and what went wrong with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from gt.wire.instructions import Geometry
from gt.wire.messages import Answer, Failure
from gt.worker.failures import failure_of
from gt.worker.files import Writer
from gt.worker.memory import Memory, PoisonedError


class FileUnderWay:
    """A file under way. `failure`: the first error, after which nothing more is written. Without a writer another worker
    writes it, and this one only notices whether it has the tensors.

    In the `background`, `write` copies a tensor into the worker's memory, and `finish` may be called on another thread.
    """

    def __init__(self, failure: Failure | None = None, background: bool = False) -> None:
        self.failure = failure
        self.background = background
        self._writer: Writer | None = None
        self._copies: deque[tuple[str, torch.Tensor]] = deque()

    @property
    def is_written_here(self) -> bool:
        """Whether this worker writes the file, and nothing has gone wrong so far."""
        return self._writer is not None

    def begin(self, make: Callable[[], Writer]) -> None:
        """Begin to write."""
        if self.failure is None:
            try:
                self._writer = make()
            except Exception as error:
                self._fail(error)

    def write(self, memory: Memory, name: str, id: int, geometry: Geometry) -> None:
        """Write a storage as tensor `name`."""
        if self.failure is None:
            try:
                tensor = memory.tensor(id, geometry)
                if self._writer is not None and self.background:
                    self._copies.append((name, _copied(tensor)))
                elif self._writer is not None:
                    self._writer.write(name, tensor)
            except Exception as error:
                self._fail(error)

    def finish(self) -> Failure | None:
        """Put the file in its place, if nothing went wrong; returns what did."""
        if self.failure is None and self._writer is not None:
            try:
                while self._copies:
                    self._writer.write(*self._copies.popleft())
                self._writer.finish()
            except Exception as error:
                self._fail(error)
        self.close()
        return self.failure

    def close(self) -> None:
        """Remove what was written of a file that is not finished."""
        self._copies.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _fail(self, error: Exception) -> None:
        self.failure = error.failure if isinstance(error, PoisonedError) else failure_of(error, "save file", 0)
        self.close()


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in this process's memory, row-major, that nothing else writes to."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


class Background:
    """The files of one session that a thread finishes, in their order: of two with the same path the second one stays."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: deque[tuple[int, Future[Failure | None]]] = deque()

    def add(self, request: int, saving: FileUnderWay) -> None:
        """Finish a file; the answer to `request` will be among those that `answers` returns."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "gt-save")
        self._under_way.append((request, self._thread.submit(saving.finish)))

    def is_busy(self) -> bool:
        """Whether there are answers that `answers` has not returned."""
        return bool(self._under_way)

    def answers(self) -> list[Answer]:
        """The answers that have become due since the last call."""
        due = []
        while self._under_way and self._under_way[0][1].done():
            request, finished = self._under_way.popleft()
            due.append(Answer(request, failure=finished.result()))
        return due

    def close(self) -> None:
        """The session ends: what it has given is still written, and nobody is told."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)
