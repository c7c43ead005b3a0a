"""A safetensors file that is being written, tensor by tensor, and what went wrong with it."""

from __future__ import annotations

from collections.abc import Callable

from gt.wire.instructions import Geometry
from gt.wire.messages import Failure
from gt.worker.failures import failure_of
from gt.worker.files import Writer
from gt.worker.memory import Memory, PoisonedError


class Saving:
    """A file under way. `failure`: the first error, after which nothing more is written. Without a writer another worker
    writes it, and this one only notices whether it has the tensors."""

    def __init__(self, failure: Failure | None = None) -> None:
        self.failure = failure
        self._writer: Writer | None = None

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
                if self._writer is not None:
                    self._writer.write(name, tensor)
            except Exception as error:
                self._fail(error)

    def finish(self) -> Failure | None:
        """Put the file in its place, if nothing went wrong; returns what did."""
        if self.failure is None and self._writer is not None:
            try:
                self._writer.finish()
            except Exception as error:
                self._fail(error)
        self.close()
        return self.failure

    def close(self) -> None:
        """Remove what was written of a file that is not finished."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _fail(self, error: Exception) -> None:
        self.failure = error.failure if isinstance(error, PoisonedError) else failure_of(error, "save file", 0)
        self.close()
