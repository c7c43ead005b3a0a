"""Whose turn it is: a worker's sessions take turns, a slice each, and at most `WINDOW` slices are with a worker at a time.

So one session's flood delays another by no more than that. A slice of a session on several workers goes to all of them at
once, when it is that session's turn at each and each has room. Sessions join the turns of all their workers at once, so any
two are in the same order wherever they meet: the one that has waited longest is first everywhere, and nobody waits in a
circle. Workers execute in the order of their slices, so no two wait for each other in collectives either.
"""

from __future__ import annotations

from collections.abc import Iterable

from gt.dispatcher.events import Peer
from gt.dispatcher.state import DispatcherState, SessionState, Underway
from gt.wire import messages

WINDOW = 4


def join(state: DispatcherState, session: SessionState) -> None:
    """A session has slices again: it waits for its turn."""
    for peer in session.workers:
        state.workers[peer].turns.append(session.number)


def feed(state: DispatcherState, peers: Iterable[Peer]) -> None:
    """Give workers slices until their windows are full, or the first session of each waits for another worker."""
    waiting = list(dict.fromkeys(peers))
    while waiting:
        worker = state.workers.get(waiting[-1])
        session = _next(state, worker.turns[0]) if worker is not None and worker.turns else None
        if session is None:
            waiting.pop()
            continue
        _send(state, session)
        waiting += [peer for peer in session.workers if peer not in waiting]


def _next(state: DispatcherState, number: int) -> SessionState | None:
    """The session, if it is its turn at all its workers and each has room."""
    session = state.sessions[number]
    for peer in session.workers:
        worker = state.workers[peer]
        if worker.turns[0] != number or len(worker.underway) >= WINDOW:
            return None
    return session


def _send(state: DispatcherState, session: SessionState) -> None:
    piece = session.queue.popleft()
    session.known = True
    underway = Underway(session.number, session.epoch, piece.ends, session.workers)
    for peer in session.workers:
        worker = state.workers[peer]
        worker.turns.popleft()
        if session.queue:
            worker.turns.append(session.number)
        worker.underway.append(underway)
        state.tell_worker(peer, messages.Execute(session.number, piece.ends, piece.items), piece.frames)
