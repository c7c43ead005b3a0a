"""The dispatcher's decisions: `step(event) -> actions`, without a socket, a clock, a thread or randomness.

`sessions` decides who is here and who works for whom, `schedule` who executes what and when; both change `state`.

Peers are strangers: `step` copes with anything they send. What is out of turn, or concerns somebody else, is dropped and
counted (`DispatcherStats.malformed`). docs/decisions/014-peers.md.
"""

from __future__ import annotations

from gt.dispatcher import schedule, sessions
from gt.dispatcher.events import (
    Action,
    ClientGone,
    Event,
    Expect,
    Failed,
    Frames,
    FromClientEvent,
    FromWorkerEvent,
    Malformed,
    Peer,
    WorkerGone,
)
from gt.dispatcher.state import DispatcherState, DispatcherStats
from gt.wire import messages
from gt.wire.messages import FromClient, FromWorker

OTHER_SIDE = "that is where this service's {} connect, and {} did: give the address that `gt serve` was given"


class Dispatcher:
    """The state and the one way to change it, `step`."""

    def __init__(self, worker_batch_size: int, credit: int, expected_workers: int = 0, folder: str = "") -> None:
        self.state = DispatcherState(worker_batch_size, credit, expected_workers, folder)

    def stats(self) -> DispatcherStats:
        """A snapshot of the counters."""
        return self.state.stats()

    def step(self, event: Event) -> list[Action]:
        """Take in one event; returns what to do, in order."""
        state = self.state
        match event:
            case FromClientEvent(peer, message, frames):
                _from_client(state, peer, message, frames)
            case FromWorkerEvent(peer, message, frames):
                _from_worker(state, peer, message, frames)
            case ClientGone(peer):
                sessions.end_session(state, peer)
            case WorkerGone(peer):
                sessions.lose_worker(state, peer)
            case Expect(workers):
                sessions.expect(state, workers)
            case Malformed():
                state.malformed += 1
            case Failed(cause, reason):
                _fail(state, cause, reason)
        return state.take_actions()


def _from_client(state: DispatcherState, peer: Peer, message: FromClient, frames: Frames) -> None:
    match message:
        case messages.Hello():
            sessions.open_session(state, peer, message)
        case messages.Run():
            schedule.run(state, peer, message, frames)
        case messages.Goodbye():
            state.malformed += not sessions.end_session(state, peer)
        case messages.Ping():
            state.tell_client(peer, messages.Pong())
        case messages.Register():
            state.malformed += 1
            state.tell_client(peer, messages.Rejected(OTHER_SIDE.format("clients", "a worker")))


def _from_worker(state: DispatcherState, peer: Peer, message: FromWorker, frames: Frames) -> None:
    match message:
        case messages.Register():
            sessions.register(state, peer, message)
        case messages.Hello():
            state.malformed += 1
            state.tell_worker(peer, messages.Rejected(OTHER_SIDE.format("workers", "a client")))
        case messages.Done():
            schedule.done(state, peer, message, frames)
        case messages.Late():
            schedule.late(state, peer, message)
        case messages.Ping():
            state.tell_worker(peer, messages.Pong())


def _fail(state: DispatcherState, cause: Event, reason: str) -> None:
    """End everything that a peer has here, relying on nothing in the state but its three tables."""
    state.failed += 1
    match cause:
        case FromClientEvent(peer) | ClientGone(peer):
            state.tell_client(peer, messages.Rejected(reason))
            sessions.end_session(state, peer)
        case FromWorkerEvent(peer) | WorkerGone(peer):
            state.tell_worker(peer, messages.Rejected(reason))
            sessions.lose_worker(state, peer)
