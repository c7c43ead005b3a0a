"""What the dispatcher knows: sessions, workers, counters, and the actions decided so far. No decision is made here.

The operations keep the tables consistent with each other; tests/sim/invariants.py says what has to hold.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from gt.dispatcher.events import Action, Frames, Peer, SessionEnded, TellClient, TellWorker
from gt.dispatcher.slices import BatchSlice
from gt.placement.layout import Sharding
from gt.planning.planner import Planner
from gt.wire.messages import Done, ToClient, ToWorker, WorkerInfo


@dataclass(slots=True)
class SessionState:
    """One client's session and the workers it is placed on; without any it waits for one.

    `seq` is the number of the last batch that arrived, `underway` counts the batches that have not ended, and `queue` holds
    their slices that no worker has yet. `epoch` counts how often the session was lost. `known`: its workers have been sent a
    slice, so they hold something of it. `sharding` and `planner`: of a session on several workers.
    """

    number: int
    peer: Peer
    sharding: Sharding | None = None
    planner: Planner | None = None
    workers: tuple[Peer, ...] = ()
    seq: int = 0
    epoch: int = 0
    underway: int = 0
    known: bool = False
    queue: deque[BatchSlice] = field(default_factory=deque)

    @property
    def workers_needed(self) -> int:
        """How many workers it is placed on."""
        return self.sharding.workers_needed if self.sharding else 1


@dataclass(slots=True)
class Underway:
    """A slice that workers have: the batch of `session` that it ends (0: none), and the reports that have come, by worker.

    It is the workers' until all have reported it, even if its session has ended or has been lost since `epoch`.
    """

    session: int
    epoch: int
    ends: int
    workers: tuple[Peer, ...]
    reports: dict[Peer, tuple[Done, Frames]] = field(default_factory=dict)


@dataclass(slots=True)
class WorkerState:
    """A worker, the sessions placed on it, and those among them that wait for their turn.

    A session of several workers joins the turns of all of them at once, so any two sessions are in the same order wherever
    they meet. `underway`: the slices that it has, in order.
    """

    info: WorkerInfo
    sessions: set[int] = field(default_factory=set)
    turns: deque[int] = field(default_factory=deque)
    underway: deque[Underway] = field(default_factory=deque)


@dataclass(frozen=True)
class DispatcherStats:
    """A snapshot, with counts since the start.

    `malformed` counts what was not a message, or not its sender's to say; `failed` counts the events on which `step` raised.
    """

    sessions: int
    workers: int
    queued_slices: int
    malformed: int
    batches: int
    dropped_batches: int
    failed: int


class DispatcherState:
    """The sessions by number, their numbers by client, the workers, and the counters of `DispatcherStats`."""

    def __init__(self, worker_batch_size: int, credit: int, expected_workers: int, folder: str) -> None:
        self.worker_batch_size = worker_batch_size
        self.folder = folder
        """Private to the service: the workers of a session find each other there."""
        self.credit = credit
        self.expected_workers = expected_workers
        """See `Expect`."""
        self.sessions: dict[int, SessionState] = {}
        self.clients: dict[Peer, int] = {}
        self.workers: dict[Peer, WorkerState] = {}
        self.opened = 0
        """Sessions opened since the start; the number of the last one."""
        self.malformed = self.batches = self.dropped = self.failed = 0
        self._actions: list[Action] = []

    @property
    def all_workers(self) -> int:
        """How many workers the service has, or soon has."""
        return max(len(self.workers), self.expected_workers)

    def stats(self) -> DispatcherStats:
        """The counters now."""
        queued = sum(len(s.queue) for s in self.sessions.values())
        counts = (self.malformed, self.batches, self.dropped, self.failed)
        return DispatcherStats(len(self.sessions), len(self.workers), queued, *counts)

    # -- actions ---------------------------------------------------------------------------------------------------------

    def tell_client(self, peer: Peer, message: ToClient, frames: Frames | None = None) -> None:
        """Decide to send a message to a client."""
        self._actions.append(TellClient(peer, message, frames or []))

    def tell_worker(self, peer: Peer, message: ToWorker, frames: Frames | None = None) -> None:
        """Decide to send a message to a worker."""
        worker = self.workers.get(peer)
        self._actions.append(TellWorker(peer, worker.info.name if worker else "", message, frames or []))

    def take_actions(self) -> list[Action]:
        """The actions decided since the last call, in order.

        If a step raises, what it had decided stays for the next one: it belongs to what has already changed.
        """
        actions, self._actions = self._actions, []
        return actions

    # -- the tables ------------------------------------------------------------------------------------------------------

    def session_of(self, client: Peer) -> SessionState | None:
        """The session that a client has open."""
        return self.sessions.get(self.clients.get(client, 0))

    def add_session(self, client: Peer, sharding: Sharding | None) -> SessionState:
        """A new session, not placed yet."""
        self.opened += 1
        session = self.sessions[self.opened] = SessionState(self.opened, client, sharding)
        self.clients[client] = session.number
        return session

    def remove_session(self, client: Peer) -> SessionState | None:
        """Take a client's session out of every table; returns it, or None if the client has none."""
        session = self.sessions.pop(self.clients.pop(client, 0), None)
        if session is not None:
            self._withdraw(session)
            self._actions.append(SessionEnded(session.number))
        return session

    def place(self, session: SessionState, workers: tuple[Peer, ...]) -> None:
        """Put a waiting session on workers."""
        session.workers = workers
        session.planner = Planner(session.sharding) if session.sharding else None
        for peer in workers:
            self.workers[peer].sessions.add(session.number)

    def displace(self, session: SessionState) -> None:
        """Take a session off its workers, with the loss of all it had there: a new epoch begins."""
        self._withdraw(session)
        session.workers = ()
        session.planner = None
        session.queue.clear()
        session.underway = 0
        session.known = False
        session.epoch += 1

    def _withdraw(self, session: SessionState) -> None:
        for worker in self.workers.values():
            worker.sessions.discard(session.number)
            worker.turns = deque(n for n in worker.turns if n != session.number)
