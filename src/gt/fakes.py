"""The whole system in one process: the real dispatcher core, real workers, an in-memory transport, a virtual clock.

    import gt.fakes

    with gt.fakes.System() as system:  # gt's tensors now live in this process
        ...

Product code: tests, simulations and debuggers use it where processes and sockets would only be in the way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

import torch

from gt.client.patches.marks import marks
from gt.client.session.process import process
from gt.client.session.random_sequence import undisturbed
from gt.dispatcher import events
from gt.dispatcher.core import Dispatcher
from gt.errors import ConnectionLostError, PeerError, ProtocolError
from gt.placement.mesh import Mesh
from gt.wire import codec, messages
from gt.wire.shared import Frame, inline, mapped
from gt.worker.collectives import Collective
from gt.worker.execute import Work, Worker
from gt.worker.group import LEFT, Pending

Message = list[Frame]


class FakeClock:
    """A clock that only moves when told to, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now += seconds


class FakeTransport:
    """A client's end. Waiting lets the rest of the system work; if nothing is left to do, it times out."""

    def __init__(self, system: System, peer: bytes) -> None:
        self.system = system
        self.peer = peer
        self.arrived: deque[Message] = deque()
        self.closed = False

    def send(self, frames: Sequence[Frame]) -> None:
        """Put a message into the dispatcher's inbox. Raises ConnectionLostError if closed."""
        if self.closed:
            raise ConnectionLostError("fake: this transport is closed")
        self.system.inbox.append((self.peer, [memoryview(bytes(f)) for f in mapped(frames)]))

    def wait(self, timeout_s: float | None) -> None:
        """Let the system work until a message has arrived. Raises ConnectionLostError if none ever will."""
        self.system.settle()
        if self.arrived:
            return
        if self.closed or timeout_s is None:
            raise ConnectionLostError("fake: nothing will ever arrive")
        self.system.clock.advance(timeout_s)

    def receive(self, timeout_s: float | None) -> Message | None:
        """The next message; None if none has arrived within `timeout_s` seconds of the fake clock."""
        self.wait(timeout_s)
        return self.arrived.popleft() if self.arrived else None

    def leave_to_parent(self) -> None:
        """In a forked child: stop using the transport."""
        self.closed = True

    def close(self) -> None:
        """The peer is gone, as a killed process is."""
        self.closed = True
        self.system.settle()
        self.system.act(events.ClientGone(self.peer))


class FakeWork:
    """A collective between the workers `peers` of one process: it ends when the last of them has begun it."""

    def __init__(self, board: Board, peers: tuple[int, ...], end: Callable[[list[tuple[torch.Tensor, ...]]], None]) -> None:
        self._board = board
        self._peers = peers
        self._count = len(peers)
        self._end = end
        self._given: dict[int, tuple[torch.Tensor, ...]] = {}

    def add(self, index: int, tensors: tuple[torch.Tensor, ...]) -> None:
        """The worker at `index` takes part with these."""
        self._given[index] = tensors
        if len(self._given) == self._count:
            self._end([self._given[i] for i in range(self._count)])

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended. Raises PeerError if it never will."""
        if len(self._given) == self._count:
            return True
        if self._board.left & set(self._peers):
            raise PeerError(LEFT)
        return False


class Board:
    """What the workers of a session share: their collectives by axis and number, and the ranks that have left."""

    def __init__(self) -> None:
        self.works: dict[tuple[int, int, int], FakeWork] = {}
        self.left: set[int] = set()


class FakeGroup:
    """A worker's group in one process."""

    def __init__(self, rank: int, mesh: Mesh, board: Board) -> None:
        self.rank = rank
        self.mesh = mesh
        self._board = board
        self._begun = [0] * len(mesh.sizes)

    def _join(self, axis: int, end: Callable[[list[tuple[torch.Tensor, ...]]], None], *tensors: torch.Tensor) -> FakeWork:
        if self.rank in self._board.left:
            raise PeerError(LEFT)
        peers = self.mesh.peers(self.rank, axis)
        key = (axis, peers[0], self._begun[axis])
        self._begun[axis] += 1
        work = self._board.works.setdefault(key, FakeWork(self._board, peers, end))
        work.add(peers.index(self.rank), tensors)
        return work

    def all_reduce(self, axis: int, tensor: torch.Tensor, kind: str) -> Pending:
        """See `Group`."""

        def end(given: list[tuple[torch.Tensor, ...]]) -> None:
            rows = torch.stack([t for (t,) in given])
            whole = rows.amax(0) if kind == "max" else rows.sum(0, dtype=rows.dtype)
            for (t,) in given:
                t.copy_(whole)

        return self._join(axis, end, tensor)

    def all_gather(self, axis: int, out: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """See `Group`."""

        def end(given: list[tuple[torch.Tensor, ...]]) -> None:
            for filled, _ in given:
                filled.copy_(torch.stack([t for _, t in given]))

        return self._join(axis, end, out, tensor)

    def reduce_scatter(self, axis: int, out: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """See `Group`."""

        def end(given: list[tuple[torch.Tensor, ...]]) -> None:
            for index, (filled, _) in enumerate(given):
                filled.copy_(torch.stack([t[index] for _, t in given]).sum(0, dtype=filled.dtype))

        return self._join(axis, end, out, tensor)

    def close(self) -> None:
        """See `Group`."""
        self._board.left.add(self.rank)


def _is_over(collective: Collective) -> bool:
    try:
        return collective.wait(0.0)
    except PeerError:  # raised again where the result is wanted
        return True


class System:
    """A dispatcher and its workers. As a context it serves this process's own tensors."""

    def __init__(self, workers: int = 1, worker_batch_size: int = 512, credit: int = 64) -> None:
        self.clock = FakeClock()
        self.dispatcher = Dispatcher(worker_batch_size, credit)
        self.inbox: deque[tuple[bytes, Message]] = deque()
        self.clients: dict[bytes, FakeTransport] = {}
        self.workers: dict[bytes, Worker] = {}
        self.queues: dict[bytes, deque[Message]] = {}
        self.work: dict[bytes, tuple[int, Work, Collective]] = {}
        """The sessions whose work workers are in the middle of, and the collective that each waits for."""
        self.boards: dict[str, Board] = {}
        """By the place where a session's workers meet."""
        for index in range(workers):
            self.add_worker(f"worker{index}")

    def add_worker(self, name: str) -> None:
        """Register a new worker on the CPU."""
        peer = name.encode()
        self.workers[peer] = Worker("cpu", name=name)
        self.queues[peer] = deque()
        register = messages.Register(messages.PROTOCOL, self.workers[peer].info())
        self.act(events.FromWorkerEvent(peer, register, []))

    def kill_worker(self, name: str) -> None:
        """The worker is gone with all that it held."""
        peer = name.encode()
        del self.workers[peer], self.queues[peer]
        self.work.pop(peer, None)
        self.act(events.WorkerGone(peer))

    def connect(self) -> FakeTransport:
        """The transport of a new client."""
        peer = f"client{len(self.clients)}".encode()
        self.clients[peer] = FakeTransport(self, peer)
        return self.clients[peer]

    def settle(self) -> None:
        """Work until nothing is left to do."""
        while self.step():
            pass

    def step(self) -> bool:
        """Handle one message at the dispatcher, or one at each worker. Returns False if none was waiting."""
        if self.inbox:
            peer, frames = self.inbox.popleft()
            try:
                message = codec.from_client(inline(frames[0] if frames else b""))
                self.act(events.FromClientEvent(peer, message, frames[1:]))
            except ProtocolError:
                self.act(events.Malformed(peer))
            return True
        worked = [self._tell_late(peer) or self._work(peer) for peer in list(self.workers)]
        return any(worked)

    def _tell_late(self, peer: bytes) -> bool:
        """Whether a worker has just finished something in the background."""
        late = self.workers[peer].late()
        for message in late:
            self.act(events.FromWorkerEvent(peer, message, []))
        return bool(late)

    def _work(self, peer: bytes) -> bool:
        if peer in self.work:
            session, work, collective = self.work[peer]
            if not self._has_ended(peer, session) and not _is_over(collective):
                return False
            del self.work[peer]
            self._go_on(peer, session, work)
            return True
        if not self.queues[peer]:
            return False
        frames = self.queues[peer].popleft()
        message = codec.to_worker(inline(frames[0]))
        if isinstance(message, messages.Execute):
            self._go_on(peer, message.session, self.workers[peer].take(message, frames[1:]))
        elif isinstance(message, messages.Join):
            mesh = Mesh(tuple(map(str, range(len(message.sizes)))), message.sizes)
            board = self.boards.setdefault(message.meeting, Board())
            self.workers[peer].join(message.session, FakeGroup(message.rank, mesh, board))
        elif isinstance(message, messages.EndSession):
            self.workers[peer].end_session(message.session)
        return True

    def _has_ended(self, peer: bytes, session: int) -> bool:
        """Whether a worker has been told of a session's end."""
        arrived = (codec.to_worker(inline(frames[0])) for frames in self.queues[peer])
        return any(isinstance(message, messages.EndSession) and message.session == session for message in arrived)

    def _go_on(self, peer: bytes, session: int, work: Work) -> None:
        """Let a worker execute until it has to wait for peers, or is done."""
        try:
            with marks.paused(), undisturbed():  # its generator is this process's, and not part of the client's sequence
                self.work[peer] = session, work, next(work)
        except StopIteration as stopped:
            done, data = stopped.value
            self.act(events.FromWorkerEvent(peer, done, data))

    def act(self, event: events.Event) -> None:
        """Let the dispatcher decide on an event, and deliver its messages."""
        for action in self.dispatcher.step(event):
            if isinstance(action, events.SessionEnded):
                continue
            frames: Message = [memoryview(f) for f in mapped([codec.encode(action.message), *action.frames])]
            if isinstance(action, events.TellWorker):
                if action.peer in self.queues:
                    self.queues[action.peer].append(frames)
            elif not self.clients[action.peer].closed:
                self.clients[action.peer].arrived.append(frames)

    def __enter__(self) -> Self:
        session = process.converse(self.connect(), "fake", 1.0)
        session.in_process = True
        process.use(session)
        return self

    def __exit__(self, *_: object) -> None:
        process.close()
