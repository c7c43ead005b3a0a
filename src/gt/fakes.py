"""The whole system in one process: the real dispatcher core, real workers, an in-memory transport, a virtual clock.

    import gt.fakes

    with gt.fakes.System() as system:  # gt's tensors now live in this process
        ...

Product code: tests, simulations and debuggers use it where processes and sockets would only be in the way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Self

from gt.client.session.process import process
from gt.client.session.random_sequence import undisturbed
from gt.dispatcher import events
from gt.dispatcher.core import Dispatcher
from gt.errors import ConnectionLostError, ProtocolError
from gt.wire import codec, messages
from gt.wire.shared import Frame, inline, mapped
from gt.worker.execute import Worker

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


class System:
    """A dispatcher and its workers. As a context it serves this process's own tensors."""

    def __init__(self, workers: int = 1, worker_batch_size: int = 512, credit: int = 64) -> None:
        self.clock = FakeClock()
        self.dispatcher = Dispatcher(worker_batch_size, credit)
        self.inbox: deque[tuple[bytes, Message]] = deque()
        self.clients: dict[bytes, FakeTransport] = {}
        self.workers: dict[bytes, Worker] = {}
        self.queues: dict[bytes, deque[Message]] = {}
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
        worked = [self._work(peer) for peer in list(self.workers)]
        return any(worked)

    def _work(self, peer: bytes) -> bool:
        if not self.queues[peer]:
            return False
        frames = self.queues[peer].popleft()
        message = codec.to_worker(inline(frames[0]))
        if isinstance(message, messages.Execute):
            with undisturbed():  # the worker's generator is this process's here, and not part of the client's sequence
                done, data = self.workers[peer].take(message, frames[1:])
            self.act(events.FromWorkerEvent(peer, done, data))
        elif isinstance(message, messages.EndSession):
            self.workers[peer].end_session(message.session)
        return True

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
        process.use(process.converse(self.connect(), "fake", 1.0))
        return self

    def __exit__(self, *_: object) -> None:
        process.close()
