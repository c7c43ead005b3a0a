"""The dispatcher's decisions: `step(state, event) -> actions`, without a socket, a clock, a thread or randomness.

A session is placed on the worker with the fewest sessions. Its batches are cut into slices of at most
`worker_batch_size` instructions; a worker's sessions take turns, a slice each, and at most `WINDOW` slices are with a
worker at a time, so that one session's flood delays another by no more than that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from gt.dispatcher.slices import Slice, cut
from gt.errors import ProtocolError
from gt.wire import messages
from gt.wire.messages import FromClient, FromWorker, ToClient, ToWorker
from gt.wire.shared import Frame

Peer = bytes
Frames = list[Frame]
WINDOW = 4
OTHER_SIDE = "that is where this service's {} connect, and {} did: give the address that `gt serve` was given"
NO_WORKER = "the service has no worker: add one with `gt worker --connect ADDRESS`"

# -- events --------------------------------------------------------------------------------------------------------------


class FromClientEvent(msgspec.Struct, frozen=True):
    peer: Peer
    message: FromClient
    frames: Frames


class FromWorkerEvent(msgspec.Struct, frozen=True):
    peer: Peer
    message: FromWorker
    frames: Frames


class ClientGone(msgspec.Struct, frozen=True):
    peer: Peer


class WorkerGone(msgspec.Struct, frozen=True):
    peer: Peer


class Expect(msgspec.Struct, frozen=True):
    """So many workers are known to be starting or running: a client is kept waiting while none of them is ready."""

    workers: int


class Malformed(msgspec.Struct, frozen=True):
    """A frame that is no message came from a peer."""

    peer: Peer


Event: TypeAlias = FromClientEvent | FromWorkerEvent | ClientGone | WorkerGone | Expect | Malformed

# -- actions -------------------------------------------------------------------------------------------------------------


class TellClient(msgspec.Struct, frozen=True):
    peer: Peer
    message: ToClient
    frames: Frames = []


class TellWorker(msgspec.Struct, frozen=True):
    """Sent to a worker; an `Execute` is also what the instruction log records."""

    peer: Peer
    message: ToWorker
    frames: Frames = []


Action: TypeAlias = TellClient | TellWorker

# -- state ---------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Session:
    """One client's session. `underway` holds, slice by slice in order, the batch that each one ends (0: none)."""

    number: int
    peer: Peer
    worker: Peer | None = None
    seq: int = 0
    epoch: int = 0
    queue: deque[Slice] = field(default_factory=deque)
    underway: deque[int] = field(default_factory=deque)


@dataclass(slots=True)
class WorkerState:
    """A worker, the sessions placed on it, those of them that wait for their turn, and how many slices it has."""

    info: messages.WorkerInfo
    sessions: set[int] = field(default_factory=set)
    turns: deque[int] = field(default_factory=deque)
    slices: int = 0


@dataclass(frozen=True)
class Stats:
    """A snapshot. Counts since the start."""

    sessions: int
    workers: int
    queued_slices: int
    malformed: int
    batches: int
    dropped_batches: int


class Dispatcher:
    """The state and its transitions; `step` is the only way in."""

    def __init__(self, worker_batch_size: int, credit: int, expected_workers: int = 0) -> None:
        self.worker_batch_size = worker_batch_size
        self.credit = credit
        self.expected_workers = expected_workers
        """See `Expect`."""
        self.sessions: dict[int, Session] = {}
        self.clients: dict[Peer, int] = {}
        self.workers: dict[Peer, WorkerState] = {}
        self.malformed = self.batches = self.dropped = self.opened = 0

    def stats(self) -> Stats:
        queued = sum(len(s.queue) for s in self.sessions.values())
        return Stats(len(self.sessions), len(self.workers), queued, self.malformed, self.batches, self.dropped)

    def step(self, event: Event) -> list[Action]:
        """Take in one event; returns what to send, in order."""
        match event:
            case FromClientEvent(peer, message, frames):
                return self._client(peer, message, frames)
            case FromWorkerEvent(peer, message, frames):
                return self._worker(peer, message, frames)
            case ClientGone(peer):
                return self._end_session(peer)
            case WorkerGone(peer):
                return self._lose_worker(peer)
            case Expect(workers):
                return self._expect(workers)
            case Malformed():
                self.malformed += 1
        return []

    # -- clients ---------------------------------------------------------------------------------------------------------

    def _client(self, peer: Peer, message: FromClient, frames: Frames) -> list[Action]:
        match message:
            case messages.Hello():
                return self._hello(peer, message)
            case messages.Run():
                return self._run(peer, message, frames)
            case messages.Goodbye():
                return self._end_session(peer)
            case messages.Ping():
                return [TellClient(peer, messages.Pong())]
            case messages.Register():
                return [TellClient(peer, messages.Rejected(OTHER_SIDE.format("clients", "a worker")))]
        return []

    def _hello(self, peer: Peer, hello: messages.Hello) -> list[Action]:
        if hello.protocol != messages.PROTOCOL:
            reason = f"the client speaks protocol {hello.protocol}, this dispatcher {messages.PROTOCOL}: install one version"
            return [TellClient(peer, messages.Rejected(reason))]
        if peer in self.clients:
            self.malformed += 1
            return []
        if not self.workers and not self.expected_workers:
            return [TellClient(peer, messages.Rejected(NO_WORKER))]
        self.opened += 1
        session = self.sessions[self.opened] = Session(self.opened, peer)
        self.clients[peer] = session.number
        return self._place(session)

    def _expect(self, workers: int) -> list[Action]:
        """Where the last of the workers that were to come has died, nobody waits for it any longer."""
        self.expected_workers = workers
        if workers or self.workers:
            return []
        waiting = [s for s in self.sessions.values() if s.worker is None and not s.epoch]
        for session in waiting:
            del self.sessions[session.number], self.clients[session.peer]
        reason = f"its workers ended before they were ready; {NO_WORKER}"
        return [TellClient(session.peer, messages.Rejected(reason)) for session in waiting]

    def _place(self, session: Session) -> list[Action]:
        """Put a session on a worker and say so; without a worker it waits for the first that registers."""
        if not self.workers:
            return []
        peer = min(self.workers, key=lambda p: (len(self.workers[p].sessions), self.workers[p].info.name))
        session.worker = peer
        self.workers[peer].sessions.add(session.number)
        return [TellClient(session.peer, messages.Welcome(session.number, self.workers[peer].info, self.credit))]

    def _run(self, peer: Peer, run: messages.Run, frames: Frames) -> list[Action]:
        session = self.sessions.get(self.clients.get(peer, 0))
        if session is None:
            return [TellClient(peer, messages.Rejected("this session is not open (any more)"))]
        if run.seq <= session.seq:
            self.dropped += 1
            return []
        session.seq = run.seq
        if run.epoch != session.epoch:
            self.dropped += 1
            return []
        if session.worker is None:
            reason = f"the session's worker died, and {NO_WORKER}"
            return [TellClient(peer, messages.SessionLost(reason, session.epoch))]
        try:
            slices = cut(run, frames, self.worker_batch_size)
        except ProtocolError:
            self.malformed += 1
            return [TellClient(peer, messages.Done(session.number, run.seq))]
        self.batches += 1
        worker = self.workers[session.worker]
        if not session.queue:
            worker.turns.append(session.number)
        session.queue.extend(slices)
        return self._feed(session.worker)

    def _end_session(self, peer: Peer) -> list[Action]:
        session = self.sessions.pop(self.clients.pop(peer, 0), None)
        if session is None or session.worker is None:
            return []
        worker = self.workers[session.worker]
        worker.sessions.discard(session.number)
        if session.queue:
            worker.turns.remove(session.number)
        worker.slices -= len(session.underway)
        ended = TellWorker(session.worker, messages.EndSession(session.number))
        return [ended, *self._feed(session.worker)]

    # -- workers ---------------------------------------------------------------------------------------------------------

    def _feed(self, peer: Peer) -> list[Action]:
        """Give a worker slices, its sessions in turn, as far as its window goes."""
        worker = self.workers[peer]
        actions: list[Action] = []
        while worker.turns and worker.slices < WINDOW:
            session = self.sessions[worker.turns.popleft()]
            piece = session.queue.popleft()
            if session.queue:
                worker.turns.append(session.number)
            session.underway.append(piece.ends)
            worker.slices += 1
            actions.append(TellWorker(peer, messages.Execute(session.number, piece.ends, piece.items), piece.frames))
        return actions

    def _worker(self, peer: Peer, message: FromWorker, frames: Frames) -> list[Action]:
        if isinstance(message, messages.Register):
            return self._register(peer, message)
        if isinstance(message, messages.Hello):
            return [TellWorker(peer, messages.Rejected(OTHER_SIDE.format("workers", "a client")))]
        worker = self.workers.get(peer)
        if worker is None:
            self.malformed += 1
            return []
        match message:
            case messages.Done():
                return self._done(peer, worker, message, frames)
        return []

    def _register(self, peer: Peer, register: messages.Register) -> list[Action]:
        if register.protocol != messages.PROTOCOL:
            reason = f"the worker speaks protocol {register.protocol}, this dispatcher {messages.PROTOCOL}"
            return [TellWorker(peer, messages.Rejected(reason))]
        self.workers[peer] = WorkerState(register.info)
        actions: list[Action] = [TellWorker(peer, messages.Registered())]
        for session in self.sessions.values():
            if session.worker is None:
                actions += self._place(session)
        return actions

    def _done(self, peer: Peer, worker: WorkerState, done: messages.Done, frames: Frames) -> list[Action]:
        self.malformed += done.malformed
        session = self.sessions.get(done.session)
        if session is None or session.worker != peer or not session.underway:
            return []
        worker.slices -= 1
        ends = session.underway.popleft()
        told: list[Action] = []
        if ends or done.answers or done.warnings:
            report = messages.Done(session.number, ends, done.answers, warnings=done.warnings)
            told.append(TellClient(session.peer, report, frames))
        return [*told, *self._feed(peer)]

    def _lose_worker(self, peer: Peer) -> list[Action]:
        worker = self.workers.pop(peer, None)
        if worker is None:
            return []
        reason = (
            f"worker {worker.info.name} (pid {worker.info.pid} on {worker.info.host}, {worker.info.device}) died;"
            " every tensor of this session was on it and is gone"
        )
        actions: list[Action] = []
        for number in sorted(worker.sessions):
            session = self.sessions[number]
            session.queue.clear()
            session.underway.clear()
            session.worker = None
            session.epoch += 1
            actions += self._place(session)
            actions.append(TellClient(session.peer, messages.SessionLost(reason, session.epoch)))
        return actions
