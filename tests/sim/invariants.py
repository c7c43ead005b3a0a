"""Invariants of a dispatcher after every step, whatever its peers have sent."""

from __future__ import annotations

from gt.dispatcher.core import Dispatcher
from gt.dispatcher.events import Expect
from gt.dispatcher.schedule import OVERDRAFT
from gt.dispatcher.state import DispatcherState, SessionState
from gt.dispatcher.turns import WINDOW


def check(dispatcher: Dispatcher) -> None:
    state = dispatcher.state
    assert state.clients == {session.peer: number for number, session in state.sessions.items()}
    for number, session in state.sessions.items():
        assert 0 < number == session.number <= state.opened
        if not session.workers:
            enough = len(state.workers) >= session.workers_needed and not (session.sharding and session.sharding.workers)
            assert not enough, "a session waits while there are enough workers"
            assert not session.queue
            assert not session.underway
            assert not session.known
        else:
            assert len(set(session.workers)) == session.workers_needed
            assert (session.planner is None) == (session.sharding is None)
            _check_placed(state, session)
    for peer, worker in state.workers.items():
        assert worker.sessions == {n for n, s in state.sessions.items() if peer in s.workers}
        assert set(worker.turns) <= worker.sessions
        assert len(worker.underway) <= WINDOW
        assert not worker.turns or not _could_go_on(state, worker.turns[0]), "workers have room, and a slice waits"
    assert dispatcher.step(Expect(state.expected_workers)) == [], "a session waits for nobody"


def _could_go_on(state: DispatcherState, number: int) -> bool:
    workers = [state.workers[peer] for peer in state.sessions[number].workers]
    return all(worker.turns[0] == number and len(worker.underway) < WINDOW for worker in workers)


def _check_placed(state: DispatcherState, session: SessionState) -> None:
    assert session.underway <= state.credit + OVERDRAFT
    waiting = sum(piece.ends > 0 for piece in session.queue)
    underway = {
        id(piece): piece
        for peer in session.workers
        for piece in state.workers[peer].underway
        if (piece.session, piece.epoch) == (session.number, session.epoch)
    }
    for peer in session.workers:
        assert state.workers[peer].turns.count(session.number) == (1 if session.queue else 0)
    assert session.underway == waiting + sum(piece.ends > 0 for piece in underway.values())
    assert session.known or not underway
