"""The workers of one sharded session, as one of them sees them: its rank, its coordinates, and the collectives of PyTorch.

Every wait is bounded by the caller. A peer that died makes a collective fail; one that is merely silent makes it take long,
and the caller asks meanwhile whether the session still exists.
"""

from __future__ import annotations

import datetime
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import torch

from gt.errors import PeerError
from gt.placement.mesh import Mesh

CONNECT_TIMEOUT_S = 60.0
"""The most seconds that PyTorch looks for peers, on a thread of its own: whoever waits for it is not bound to that."""
SHORTEST_S = 0.001
LEFT = "the session's workers have left each other after an error; `gt.disconnect()` and start again"


class Pending(Protocol):
    """A collective under way."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, at most `timeout_s` seconds; False if it has not come. Raises RuntimeError if it failed."""


class Group(Protocol):
    """Collectives along the axes of a session's mesh. Tensors are contiguous; each call returns while it is under way."""

    rank: int
    mesh: Mesh

    def all_reduce(self, axis: int, tensor: torch.Tensor, kind: str) -> Pending:
        """Replace a tensor by its sum or maximum ("sum", "max") over the workers along `axis`."""

    def all_gather(self, axis: int, out: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """Fill `out`, of one more dim in front, with the tensors of the workers along `axis`, in order."""

    def reduce_scatter(self, axis: int, out: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """Fill `out` with this worker's row of the sum of all tensors, whose first dim counts the workers along `axis`."""

    def close(self) -> None:
        """Leave the group, at once. Collectives under way fail at the peers, and those to come fail here."""


class _Connecting(threading.Thread):
    """Finds the peers along one axis, on a thread of its own: PyTorch waits for them in C++ and cannot be interrupted."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        super().__init__(name="gt-connect", daemon=True)
        self._connect = connect
        self._found: Any = None
        self._failed: Exception | None = None
        self._searched = threading.Event()
        self._left = threading.Event()
        self.waiting: deque[_Work] = deque()
        """The collectives that are to begin once the peers are found, in order."""
        self.start()

    def run(self) -> None:
        """Find the peers, and let go of them in the end: PyTorch then waits for what is under way with them."""
        try:
            self._found = self._connect()
        except Exception as error:
            self._failed = error
        self._searched.set()
        self._left.wait()
        self._found = None

    def result(self, timeout_s: float) -> Any:
        """PyTorch's process group; None if it is not there yet. Raises PeerError if peers could not be found."""
        self._searched.wait(timeout_s)
        if self._left.is_set():
            raise PeerError(LEFT)
        if self._failed is not None:
            raise PeerError(f"the session's workers could not find each other: {self._failed}") from self._failed
        return self._found

    def leave(self) -> None:
        """Let go of the peers, without waiting for anything."""
        self._left.set()


class _Work:
    """A collective of PyTorch that begins once the peers are found: after those before it, as at every peer."""

    def __init__(self, peers: _Connecting, begin: Callable[[Any], Any]) -> None:
        self._peers = peers
        self._begin = begin
        self._work: Any = None
        self._failed: Exception | None = None
        peers.waiting.append(self)
        self._has_begun(0.0)

    def _has_begun(self, timeout_s: float) -> bool:
        if self._work is None and (found := self._peers.result(timeout_s)) is not None:
            while self._peers.waiting:
                self._peers.waiting.popleft()._start(found)
        if self._failed is not None:
            raise self._failed
        return self._work is not None

    def _start(self, found: Any) -> None:
        try:
            self._work = self._begin(found)
        except Exception as error:
            self._failed = error

    def wait(self, timeout_s: float) -> bool:
        if not self._has_begun(timeout_s):
            return False
        if timeout_s < SHORTEST_S and not self._work.is_completed():
            return False  # to PyTorch, 0 means for ever
        try:
            self._work.wait(datetime.timedelta(seconds=max(timeout_s, SHORTEST_S)))
        except RuntimeError as error:
            if self._work.is_completed():
                raise PeerError(f"a worker of this session is gone: {error}") from None
            return False
        return True


class _Summed:
    """A reduce-scatter as an exchange of rows, which are added here: gloo's own took longer."""

    def __init__(self, exchange: _Work, rows: torch.Tensor, out: torch.Tensor) -> None:
        self._exchange = exchange
        self._rows = rows
        self._out = out

    def wait(self, timeout_s: float) -> bool:
        if not self._exchange.wait(timeout_s):
            return False
        torch.sum(self._rows, 0, dtype=self._out.dtype, out=self._out)
        return True


class TorchGroup:
    """A group over torch.distributed: gloo between CPUs, NCCL between CUDA devices, both on loopback."""

    def __init__(self, rank: int, mesh: Mesh, meeting: str, device: torch.device) -> None:
        self.rank = rank
        self.mesh = mesh
        self._device = device
        self._axes = [_Connecting(self._finder(axis, meeting)) if size > 1 else None for axis, size in enumerate(mesh.sizes)]

    def _finder(self, axis: int, meeting: str) -> Callable[[], Any]:
        peers = self.mesh.peers(self.rank, axis)
        path = f"{meeting}-{axis}-{peers[0]}"
        rank, size, device = peers.index(self.rank), len(peers), self._device
        return lambda: _process_group(path, rank, size, device)

    def _start(self, axis: int, begin: Callable[[Any], Any]) -> _Work:
        peers = self._axes[axis]
        if peers is None:
            raise PeerError(LEFT)
        return _Work(peers, begin)

    def all_reduce(self, axis: int, tensor: torch.Tensor, kind: str) -> Pending:
        """See `Group`."""
        from torch.distributed.distributed_c10d import AllreduceOptions, ReduceOp  # late import: only groups need it

        options = AllreduceOptions()
        options.reduceOp = ReduceOp(ReduceOp.MAX if kind == "max" else ReduceOp.SUM)
        return self._start(axis, lambda group: group.allreduce([tensor], options))

    def all_gather(self, axis: int, out: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """See `Group`."""
        return self._start(axis, lambda group: group._allgather_base(out.view(-1), tensor))

    def reduce_scatter(self, axis: int, out: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """See `Group`."""
        if self._device.type == "cuda":
            return self._start(axis, lambda group: group._reduce_scatter_base(out, tensor.view(-1)))
        rows = torch.empty_like(tensor)
        sent, received = (one.view(-1).view(torch.uint8) for one in (tensor, rows))
        return _Summed(self._start(axis, lambda group: group.alltoall_base(received, sent, [], [])), rows, out)

    def close(self) -> None:
        """See `Group`."""
        for peers in self._axes:
            if peers is not None:
                peers.leave()
        self._axes = [None] * len(self._axes)


def _process_group(path: str, rank: int, size: int, device: torch.device) -> Any:
    from torch._C import _distributed_c10d as c10d  # late import: only groups need it

    store = c10d.FileStore(path, size)
    timeout = datetime.timedelta(seconds=CONNECT_TIMEOUT_S)
    store.set_timeout(timeout)
    if device.type == "cuda":
        nccl = c10d.ProcessGroupNCCL.Options()
        nccl._timeout = timeout
        return c10d.ProcessGroupNCCL(store, rank, size, nccl)
    options = c10d.ProcessGroupGloo._Options()
    options._devices = [c10d.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = datetime.timedelta(days=1)  # whoever waits has a bound of its own, and asks whether to go on
    # connecting to the peers is bounded by the store's timeout
    return c10d.ProcessGroupGloo(store, rank, size, options)
