"""The dispatcher's decisions: `step(state, event) -> actions`, without a socket, a clock, a thread or randomness.

A session is placed on the worker with the fewest sessions. Its batches are cut into slices of at most
`worker_batch_size` instructions; a worker's sessions take turns, a slice each, and at most `WINDOW` slices are with a
worker at a time, so that one session's flood delays another by no more than that.

Peers are strangers: whatever they send, `step` decides. What is not their turn to say, or is about what is not theirs,
is dropped and counted (`DispatcherStats.malformed`). docs/decisions/014-peers.md.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from gt.dispatcher.slices import Slice, cut
from gt.errors import ProtocolError
from gt.wire import messages
from gt.wire.messages import Answer, Failure, FromClient, FromWorker, ToClient, ToWorker
from gt.wire.shared import Frame

Peer = bytes
Frames = list[Frame]
WINDOW = 4
OVERDRAFT = 256
"""Batches beyond its credit that end a client's session. Honest ones go over it: a Ctrl-C ends a wait for credit, and the
next batch is sent."""
LONGEST = {"name": 100, "host": 255, "device": 100, "torch": 100}
"""Characters in what a worker says of itself, which errors and logs repeat to others."""
MAX_FOLDERS = 1 << 16
"""The same of all its folders, which clients compare with theirs."""
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


class Failed(msgspec.Struct, frozen=True):
    """`step` raised on an event, which is a bug: the peer that it came from has to go, and nobody else."""

    cause: FromClientEvent | FromWorkerEvent | ClientGone | WorkerGone
    reason: str


Event: TypeAlias = FromClientEvent | FromWorkerEvent | ClientGone | WorkerGone | Expect | Malformed | Failed

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
class SessionState:
    """One client's session. `worker` None: it waits for one.

    `seq` is the number of the last batch that came, `underway` counts those that have not ended, `queue` holds what of them
    no worker has. `epoch` counts its losses. `known`: its worker has had a slice, and so holds something.
    """

    number: int
    peer: Peer
    worker: Peer | None = None
    seq: int = 0
    epoch: int = 0
    underway: int = 0
    known: bool = False
    queue: deque[Slice] = field(default_factory=deque)


@dataclass(slots=True)
class WorkerState:
    """A worker, the sessions placed on it, and those of them that wait for their turn.

    `underway`: the slices that it has, in order, each as its session and the batch that it ends (0: none). They are the
    worker's until it reports them, also where their session has ended.
    """

    info: messages.WorkerInfo
    sessions: set[int] = field(default_factory=set)
    turns: deque[int] = field(default_factory=deque)
    underway: deque[tuple[int, int]] = field(default_factory=deque)


@dataclass(frozen=True)
class DispatcherStats:
    """A snapshot. Counts since the start: `malformed` is what was no message, or not its sender's to say; `failed` is what
    `step` raised on."""

    sessions: int
    workers: int
    queued_slices: int
    malformed: int
    batches: int
    dropped_batches: int
    failed: int


class Dispatcher:
    """The state and its transitions; `step` is the only way in."""

    def __init__(self, worker_batch_size: int, credit: int, expected_workers: int = 0) -> None:
        self.worker_batch_size = worker_batch_size
        self.credit = credit
        self.expected_workers = expected_workers
        """See `Expect`."""
        self.sessions: dict[int, SessionState] = {}
        self.clients: dict[Peer, int] = {}
        self.workers: dict[Peer, WorkerState] = {}
        self.malformed = self.batches = self.dropped = self.opened = self.failed = 0
        self._decided: list[Action] = []
        """What to send. Where a step raises it stays for the next: it goes with what has changed already."""

    def stats(self) -> DispatcherStats:
        queued = sum(len(s.queue) for s in self.sessions.values())
        counts = (self.malformed, self.batches, self.dropped, self.failed)
        return DispatcherStats(len(self.sessions), len(self.workers), queued, *counts)

    def step(self, event: Event) -> list[Action]:
        """Take in one event; returns what to send, in order."""
        match event:
            case FromClientEvent(peer, message, frames):
                self._client(peer, message, frames)
            case FromWorkerEvent(peer, message, frames):
                self._worker(peer, message, frames)
            case ClientGone(peer):
                self._end_session(peer)
            case WorkerGone(peer):
                self._lose_worker(peer)
            case Expect(workers):
                self._expect(workers)
            case Malformed():
                self.malformed += 1
            case Failed(cause, reason):
                self._fail(cause, reason)
        decided, self._decided = self._decided, []
        return decided

    def _tell_client(self, peer: Peer, message: ToClient, frames: Frames | None = None) -> None:
        self._decided.append(TellClient(peer, message, frames or []))

    def _tell_worker(self, peer: Peer, message: ToWorker, frames: Frames | None = None) -> None:
        self._decided.append(TellWorker(peer, message, frames or []))

    def _fail(self, cause: Event, reason: str) -> None:
        """End all that a peer has here. Of the state no more is taken for granted than `sessions`, `clients`, `workers`."""
        self.failed += 1
        match cause:
            case FromClientEvent(peer) | ClientGone(peer):
                self._tell_client(peer, messages.Rejected(reason))
                self._end_session(peer)
            case FromWorkerEvent(peer) | WorkerGone(peer):
                self._tell_worker(peer, messages.Rejected(reason))
                self._lose_worker(peer)

    # -- clients ---------------------------------------------------------------------------------------------------------

    def _client(self, peer: Peer, message: FromClient, frames: Frames) -> None:
        match message:
            case messages.Hello():
                self._hello(peer, message)
            case messages.Run():
                self._run(peer, message, frames)
            case messages.Goodbye():
                self.malformed += not self._end_session(peer)
            case messages.Ping():
                self._tell_client(peer, messages.Pong())
            case messages.Register():
                self.malformed += 1
                self._tell_client(peer, messages.Rejected(OTHER_SIDE.format("clients", "a worker")))

    def _hello(self, peer: Peer, hello: messages.Hello) -> None:
        if hello.protocol != messages.PROTOCOL:
            reason = f"the client speaks protocol {hello.protocol}, this dispatcher {messages.PROTOCOL}: install one version"
            return self._tell_client(peer, messages.Rejected(reason))
        if peer in self.clients:
            self.malformed += 1
            return None
        if not self.workers and not self.expected_workers:
            return self._tell_client(peer, messages.Rejected(NO_WORKER))
        self.opened += 1
        session = self.sessions[self.opened] = SessionState(self.opened, peer)
        self.clients[peer] = session.number
        return self._place(session)

    def _expect(self, workers: int) -> None:
        """Where the last of the workers that were to come has died, nobody waits for it any longer."""
        self.expected_workers = workers
        if workers or self.workers:
            return
        reason = f"its workers ended before they were ready; {NO_WORKER}"
        for session in [s for s in self.sessions.values() if s.worker is None and not s.epoch]:
            del self.sessions[session.number], self.clients[session.peer]
            self._tell_client(session.peer, messages.Rejected(reason))

    def _place(self, session: SessionState) -> None:
        """Put a session on a worker and say so; without a worker it waits for the first that registers."""
        if not self.workers:
            return
        peer = min(self.workers, key=lambda p: (len(self.workers[p].sessions), self.workers[p].info.name))
        session.worker = peer
        self.workers[peer].sessions.add(session.number)
        self._tell_client(session.peer, messages.Welcome(session.number, self.workers[peer].info, self.credit))

    def _run(self, peer: Peer, run: messages.Run, frames: Frames) -> None:
        session = self.sessions.get(self.clients.get(peer, 0))
        if session is None:
            self.malformed += 1
            return self._tell_client(peer, messages.Rejected("this session is not open (any more)"))
        early = session.worker is None and not session.epoch
        if early or run.seq != session.seq + 1 or run.epoch > session.epoch:
            self.malformed += 1
            return None
        session.seq = run.seq
        if run.epoch < session.epoch:
            self.dropped += 1
            return None
        if session.worker is None:
            session.epoch += 1  # with this batch is lost what the client sends until it hears of it
            reason = f"the session's worker died, and {NO_WORKER}"
            return self._tell_client(peer, messages.SessionLost(reason, session.epoch))
        return self._queue(session, session.worker, run, frames)

    def _queue(self, session: SessionState, worker: Peer, run: messages.Run, frames: Frames) -> None:
        if session.underway >= self.credit + OVERDRAFT:
            self.malformed += 1
            self._tell_client(session.peer, messages.Rejected(f"the client sent {session.underway} batches ahead"))
            self._end_session(session.peer)
            return
        try:
            slices = cut(run, frames, self.worker_batch_size)
        except ProtocolError:
            self.malformed += 1
            return self._tell_client(session.peer, messages.Done(session.number, run.seq))
        self.batches += 1
        session.underway += 1
        if not session.queue:
            self.workers[worker].turns.append(session.number)
        session.queue.extend(slices)
        return self._feed(worker)

    def _end_session(self, peer: Peer) -> bool:
        """Whether the client had one."""
        session = self.sessions.pop(self.clients.pop(peer, 0), None)
        if session is None:
            return False
        for worker in self.workers.values():
            worker.sessions.discard(session.number)
            worker.turns = deque(n for n in worker.turns if n != session.number)
        if session.worker is not None and session.known:
            self._tell_worker(session.worker, messages.EndSession(session.number))
        return True

    # -- workers ---------------------------------------------------------------------------------------------------------

    def _feed(self, peer: Peer) -> None:
        """Give a worker slices, its sessions in turn, as far as its window goes."""
        worker = self.workers[peer]
        while worker.turns and len(worker.underway) < WINDOW:
            session = self.sessions[worker.turns.popleft()]
            piece = session.queue.popleft()
            if session.queue:
                worker.turns.append(session.number)
            session.known = True
            worker.underway.append((session.number, piece.ends))
            self._tell_worker(peer, messages.Execute(session.number, piece.ends, piece.items), piece.frames)

    def _worker(self, peer: Peer, message: FromWorker, frames: Frames) -> None:
        match message:
            case messages.Register():
                self._register(peer, message)
            case messages.Hello():
                self.malformed += 1
                self._tell_worker(peer, messages.Rejected(OTHER_SIDE.format("workers", "a client")))
            case messages.Done():
                self._done(peer, message, frames)
            case messages.Ping():
                self._tell_worker(peer, messages.Pong())

    def _register(self, peer: Peer, register: messages.Register) -> None:
        if register.protocol != messages.PROTOCOL:
            reason = f"the worker speaks protocol {register.protocol}, this dispatcher {messages.PROTOCOL}"
            return self._tell_worker(peer, messages.Rejected(reason))
        if peer in self.workers:
            self.malformed += 1
            return None
        if unfit := _unfit(register.info):
            self.malformed += 1
            return self._tell_worker(peer, messages.Rejected(unfit))
        self.workers[peer] = WorkerState(register.info)
        self._tell_worker(peer, messages.Registered())
        for session in self.sessions.values():
            if session.worker is None:
                self._place(session)
        return None

    def _done(self, peer: Peer, done: messages.Done, frames: Frames) -> None:
        """A worker reports its slices in the order in which it got them."""
        worker = self.workers.get(peer)
        if worker is None or not worker.underway or worker.underway[0] != (done.session, done.seq):
            self.malformed += 1
            return
        worker.underway.popleft()
        self.malformed += done.malformed
        session = self.sessions.get(done.session)
        if session is not None:  # else it ended while the worker was at it
            session.underway -= done.seq > 0
            answers = [self._checked(answer, len(frames)) for answer in done.answers]
            if done.seq or answers or done.warnings:
                report = messages.Done(session.number, done.seq, answers, warnings=done.warnings)
                self._tell_client(session.peer, report, frames)
        self._feed(peer)

    def _checked(self, answer: Answer, frames: int) -> Answer:
        """An answer whose bytes are not there is a failure: who asked for them is waiting."""
        if -1 <= answer.frame < frames:
            return answer
        self.malformed += 1
        return Answer(answer.request, failure=Failure("ProtocolError", f"the worker sent no frame {answer.frame}"))

    def _lose_worker(self, peer: Peer) -> None:
        worker = self.workers.pop(peer, None)
        if worker is None:
            return
        reason = (
            f"worker {worker.info.name} (pid {worker.info.pid} on {worker.info.host}, {worker.info.device}) died;"
            " every tensor of this session was on it and is gone"
        )
        for session in [s for s in self.sessions.values() if s.worker == peer]:
            session.queue.clear()
            session.underway = 0
            session.known = False
            session.worker = None
            session.epoch += 1
            self._place(session)
            self._tell_client(session.peer, messages.SessionLost(reason, session.epoch))


def _unfit(info: messages.WorkerInfo) -> str:
    """What of a worker's own words cannot be repeated to others; empty where all can."""
    for name, longest in LONGEST.items():
        text = getattr(info, name)
        if not text.isprintable() or len(text) > longest:
            return f"the worker's {name}: at most {longest} printable characters"
    if sum(len(folder) + 1 for folder in info.data_dirs or ()) > MAX_FOLDERS:
        return f"the worker's folders: at most {MAX_FOLDERS} characters"
    return ""
