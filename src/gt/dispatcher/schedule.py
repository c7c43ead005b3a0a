"""What becomes of a batch: it is planned if its session has several workers, cut into slices, executed and reported."""

from __future__ import annotations

import msgspec

from gt.dispatcher import turns
from gt.dispatcher.events import Frames, Peer
from gt.dispatcher.sessions import end_session, lacking
from gt.dispatcher.slices import BatchSlice, cut, cut_items
from gt.dispatcher.state import DispatcherState, SessionState, Underway
from gt.errors import ConfigError, PeerError, ProtocolError
from gt.wire import codec, messages
from gt.wire.messages import Answer, Failure, WorkerStats

OVERDRAFT = 256
"""Batches beyond its credit that end a client's session. Honest clients exceed their credit: a Ctrl-C ends the wait for it,
and the next batch is sent."""


def run(state: DispatcherState, peer: Peer, batch: messages.Run, frames: Frames) -> None:
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


def _lose(state: DispatcherState, session: SessionState) -> None:
    """There is no worker for a batch. What the client sends before it hears of that is lost with it."""
    session.epoch += 1
    reason = f"the session's worker died, and {lacking(state, session.sharding)}"
    state.tell_client(session.peer, messages.SessionLost(reason, session.epoch))


def _send_away(state: DispatcherState, session: SessionState) -> None:
    state.malformed += 1
    state.tell_client(session.peer, messages.Rejected(f"the client sent {session.underway} batches ahead"))
    end_session(state, session.peer)


def _queue(state: DispatcherState, session: SessionState, batch: messages.Run, frames: Frames) -> None:
    try:
        slices = _slices(state, session, batch, frames)
    except ProtocolError:
        state.malformed += 1
        state.tell_client(session.peer, messages.Done(session.number, batch.seq))
        return
    except ConfigError as error:
        state.tell_client(session.peer, messages.Rejected(str(error)))
        end_session(state, session.peer)
        return
    state.batches += 1
    session.underway += 1
    if not session.queue:
        turns.join(state, session)
    session.queue.extend(slices)
    turns.feed(state, session.workers)


def _slices(state: DispatcherState, session: SessionState, batch: messages.Run, frames: Frames) -> list[BatchSlice]:
    if session.planner is None:
        return cut(batch, frames, state.worker_batch_size)
    planned = session.planner.rewrite(codec.unpack_from_client(batch.items))
    return cut_items(planned, frames, state.worker_batch_size, batch.seq)


def done(state: DispatcherState, peer: Peer, report: messages.Done, frames: Frames) -> None:
    """A worker reports a slice; it reports them in the order in which it got them."""
    worker = state.workers.get(peer)
    if worker is None or not worker.underway or not _is_about(report, worker.underway[0]):
        state.malformed += 1
        return
    piece = worker.underway.popleft()
    state.malformed += report.malformed
    piece.reports[peer] = report, frames
    session = state.sessions.get(piece.session)
    if len(piece.reports) == len(piece.workers) and session is not None and session.epoch == piece.epoch:
        _pass_on(state, session, *_together(piece))
    turns.feed(state, (peer,))


def late(state: DispatcherState, peer: Peer, message: messages.Late) -> None:
    """A worker has done in the background what a client asked for; the client may have left, or have lost that worker."""
    session = state.sessions.get(message.session)
    if session is not None and peer in session.workers:
        answer = Answer(message.answer.request, failure=message.answer.failure)
        state.tell_client(session.peer, messages.Late(session.number, answer))


def _is_about(report: messages.Done, piece: Underway) -> bool:
    return (report.session, report.seq) == (piece.session, piece.ends)


def _together(piece: Underway) -> tuple[messages.Done, Frames]:
    """One report of a slice from those of all its workers: the first worker's, with the failures and statistics of all."""
    report, frames = piece.reports[piece.workers[0]]
    if len(piece.workers) == 1:
        return report, frames
    failed: dict[int, Failure] = {}
    stats: dict[int, list[WorkerStats]] = {}
    for peer in piece.workers:
        for answer in piece.reports[peer][0].answers:
            if answer.failure is not None and _says_more(answer.failure, failed.get(answer.request)):
                failed[answer.request] = answer.failure
            if answer.stats:
                stats.setdefault(answer.request, []).extend(answer.stats)

    def answer_of_all(own: Answer) -> Answer:
        if own.request in failed:
            return Answer(own.request, failure=failed[own.request])
        return msgspec.structs.replace(own, stats=stats[own.request]) if own.request in stats else own

    answers = [answer_of_all(own) for own in report.answers]
    agreed = set.intersection(*(set(piece.reports[peer][0].recoverable) for peer in piece.workers))
    return msgspec.structs.replace(report, answers=answers, recoverable=list(agreed)), frames


def _says_more(failure: Failure, than: Failure | None) -> bool:
    """Whether a failure rather than another is the one to tell: the first, but a cause before what followed from it."""
    return than is None or (than.kind == PeerError.__name__ and failure.kind != PeerError.__name__)


def _pass_on(state: DispatcherState, session: SessionState, report: messages.Done, frames: Frames) -> None:
    """Tell a client what it waits for: the end of a batch, answers, warnings."""
    session.underway -= report.seq > 0
    answers = [_checked(state, answer, len(frames)) for answer in report.answers]
    if session.planner is not None:
        for answer in answers:
            session.planner.answered(answer)
        if any(answer.failure for answer in answers):
            session.planner.generators_differ = True
            session.planner.recoverable += report.recoverable
    if report.seq or answers or report.warnings:
        told = messages.Done(session.number, report.seq, answers, warnings=report.warnings)
        state.tell_client(session.peer, told, frames)


def _checked(state: DispatcherState, answer: Answer, frames: int) -> Answer:
    """An answer whose bytes are missing becomes a failure: its client is waiting."""
    if -1 <= answer.frame < frames:
        return answer
    state.malformed += 1
    return Answer(answer.request, failure=Failure("ProtocolError", f"the worker sent no frame {answer.frame}"))
