"""Invariants of a dispatcher after every step, whatever its peers have sent."""

from __future__ import annotations

from gt.dispatcher import core


def check(dispatcher: core.Dispatcher) -> None:
    assert dispatcher.clients == {session.peer: number for number, session in dispatcher.sessions.items()}
    for number, session in dispatcher.sessions.items():
        assert 0 < number == session.number <= dispatcher.opened
        if session.worker is None:
            assert not dispatcher.workers, "a session waits while there is a worker"
            assert not session.queue
            assert not session.underway
            assert not session.known
        else:
            _check_placed(dispatcher, session, dispatcher.workers[session.worker])
    for peer, worker in dispatcher.workers.items():
        assert worker.sessions == {n for n, s in dispatcher.sessions.items() if s.worker == peer}
        assert set(worker.turns) <= worker.sessions
        assert len(worker.underway) <= core.WINDOW
        assert not worker.turns or len(worker.underway) == core.WINDOW, "a worker has room, and slices wait"
    assert dispatcher.step(core.Expect(dispatcher.expected_workers)) == [], "a session waits for nobody"


def _check_placed(dispatcher: core.Dispatcher, session: core.SessionState, worker: core.WorkerState) -> None:
    assert worker.turns.count(session.number) == (1 if session.queue else 0)
    assert session.underway <= dispatcher.credit + core.OVERDRAFT
    own = [ends for number, ends in worker.underway if number == session.number]
    assert session.underway == sum(ends > 0 for ends in (*own, *(piece.ends for piece in session.queue)))
    assert session.known or not own
