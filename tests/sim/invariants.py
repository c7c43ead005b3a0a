"""Invariants of a dispatcher after every step, whatever its peers have sent."""

from __future__ import annotations

from gt.dispatcher.core import Dispatcher
from gt.dispatcher.events import Expect
from gt.dispatcher.schedule import OVERDRAFT, WINDOW
from gt.dispatcher.state import SessionState, State


def check(dispatcher: Dispatcher) -> None:
    state = dispatcher.state
    assert state.clients == {session.peer: number for number, session in state.sessions.items()}
    for number, session in state.sessions.items():
        assert 0 < number == session.number <= state.opened
        if not session.workers:
            assert not state.workers, "a session waits while there is a worker"
            assert not session.queue
            assert not session.underway
            assert not session.known
        else:
            assert len(session.workers) == 1, "there are no groups of workers yet"
            _check_placed(state, session)
    for peer, worker in state.workers.items():
        assert worker.sessions == {n for n, s in state.sessions.items() if peer in s.workers}
        assert set(worker.turns) <= worker.sessions
        assert len(worker.underway) <= WINDOW
        assert not worker.turns or len(worker.underway) == WINDOW, "a worker has room, and slices wait"
    assert dispatcher.step(Expect(state.expected_workers)) == [], "a session waits for nobody"


def _check_placed(state: State, session: SessionState) -> None:
    assert session.underway <= state.credit + OVERDRAFT
    for worker in [state.workers[peer] for peer in session.workers]:
        assert worker.turns.count(session.number) == (1 if session.queue else 0)
        own = [ends for number, ends in worker.underway if number == session.number]
        assert session.underway == sum(ends > 0 for ends in (*own, *(piece.ends for piece in session.queue)))
        assert session.known or not own
