"""Who executes what, and when: batches are cut into slices, sessions take turns, a worker has a window of slices.

Batches are cut into slices of at most `worker_batch_size` instructions; a worker's sessions take turns, a slice each, and at
most `WINDOW` slices are with a worker at a time, so one session's flood delays another by no more than that.
"""

from __future__ import annotations

from gt.dispatcher.events import Frames, Peer
from gt.dispatcher.sessions import NO_WORKER, end_session
from gt.dispatcher.slices import cut
from gt.dispatcher.state import SessionState, State
from gt.errors import ProtocolError
from gt.wire import messages
from gt.wire.messages import Answer, Failure

WINDOW = 4
OVERDRAFT = 256
"""Batches beyond its credit that end a client's session. Honest clients exceed their credit: a Ctrl-C ends the wait for it,
and the next batch is sent."""


def run(state: State, peer: Peer, batch: messages.Run, frames: Frames) -> None:
    """A client sent a batch: queue it, unless it is out of order or its epoch is over."""
    session = state.session_of(peer)
    if session is None:
        state.malformed += 1
        state.tell_client(peer, messages.Rejected("this session is not open (any more)"))
    elif _is_out_of_order(session, batch):
        state.malformed += 1
    else:
        session.seq = batch.seq
        if batch.epoch < session.epoch:
            state.dropped += 1
        elif not session.workers:
            _lose(state, session)
        elif session.underway >= state.credit + OVERDRAFT:
            _send_away(state, session)
        else:
            _queue(state, session, batch, frames)


def _is_out_of_order(session: SessionState, batch: messages.Run) -> bool:
    """Also a batch that was sent before the session was open, or one of an epoch that has not begun."""
    early = not session.workers and not session.epoch
    return early or batch.seq != session.seq + 1 or batch.epoch > session.epoch


def _lose(state: State, session: SessionState) -> None:
    """There is no worker for a batch. What the client sends before it hears of that is lost with it."""
    session.epoch += 1
    reason = f"the session's worker died, and {NO_WORKER}"
    state.tell_client(session.peer, messages.SessionLost(reason, session.epoch))


def _send_away(state: State, session: SessionState) -> None:
    state.malformed += 1
    state.tell_client(session.peer, messages.Rejected(f"the client sent {session.underway} batches ahead"))
    end_session(state, session.peer)


def _queue(state: State, session: SessionState, batch: messages.Run, frames: Frames) -> None:
    try:
        slices = cut(batch, frames, state.worker_batch_size)
    except ProtocolError:
        state.malformed += 1
        state.tell_client(session.peer, messages.Done(session.number, batch.seq))
        return
    state.batches += 1
    session.underway += 1
    if not session.queue:
        state.workers[session.only_worker].turns.append(session.number)
    session.queue.extend(slices)
    feed(state, session.only_worker)


def feed(state: State, peer: Peer) -> None:
    """Give a worker slices, its sessions in turn, until its window is full."""
    worker = state.workers[peer]
    while worker.turns and len(worker.underway) < WINDOW:
        session = state.sessions[worker.turns.popleft()]
        piece = session.queue.popleft()
        if session.queue:
            worker.turns.append(session.number)
        session.known = True
        worker.underway.append((session.number, piece.ends))
        state.tell_worker(peer, messages.Execute(session.number, piece.ends, piece.items), piece.frames)


def done(state: State, peer: Peer, report: messages.Done, frames: Frames) -> None:
    """A worker reports a slice; it reports them in the order in which it got them."""
    worker = state.workers.get(peer)
    if worker is None or not worker.underway or worker.underway[0] != (report.session, report.seq):
        state.malformed += 1
        return
    worker.underway.popleft()
    state.malformed += report.malformed
    session = state.sessions.get(report.session)
    if session is not None:  # else it ended while the worker was executing the slice
        _pass_on(state, session, report, frames)
    feed(state, peer)


def _pass_on(state: State, session: SessionState, report: messages.Done, frames: Frames) -> None:
    """Tell a client what it waits for: the end of a batch, answers, warnings."""
    session.underway -= report.seq > 0
    answers = [_checked(state, answer, len(frames)) for answer in report.answers]
    if report.seq or answers or report.warnings:
        told = messages.Done(session.number, report.seq, answers, warnings=report.warnings)
        state.tell_client(session.peer, told, frames)


def _checked(state: State, answer: Answer, frames: int) -> Answer:
    """An answer whose bytes are missing becomes a failure: its client is waiting."""
    if -1 <= answer.frame < frames:
        return answer
    state.malformed += 1
    return Answer(answer.request, failure=Failure("ProtocolError", f"the worker sent no frame {answer.frame}"))
