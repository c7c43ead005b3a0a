"""A client with rogue peers, whose impossible messages raise clear errors; and one whose workers are in its own process."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

import gt.fakes
from gt.client.session import worker_reports
from gt.client.session.process import process
from gt.config import settings
from gt.errors import ConnectionLostError, GTError, ProtocolError, WorkerLostError
from gt.wire import codec, messages
from gt.wire import instructions as wire
from gt.wire.shared import Frame

INFO = messages.WorkerInfo("worker", 1, "host", "cpu", "2.13", 1 << 30)
Reply = Callable[[wire.Instruction], list[Frame]]


class Rogue:
    """A transport to a dispatcher that welcomes its client, and invents its replies."""

    def __init__(self, reply: Reply, credit: int = 8) -> None:
        self.reply = reply
        self.arrived: deque[list[Frame]] = deque([[codec.encode(messages.Welcome(1, (INFO,), credit))]])

    def send(self, frames: Sequence[Frame]) -> None:
        message = codec.from_client(frames[0])  # type: ignore[arg-type]
        if isinstance(message, messages.Run):
            requests = [item for item in codec.unpack(message.items) if isinstance(item, wire.REQUESTS)]
            self.arrived.extend(self.reply(request) for request in requests)

    def wait(self, timeout_s: float | None) -> None:
        assert self.arrived, "the client waits for ever"

    def receive(self, timeout_s: float | None) -> list[Frame] | None:
        return self.arrived.popleft() if self.arrived else None

    def leave_to_parent(self) -> None: ...

    def close(self) -> None: ...


@contextmanager
def among(reply: Reply) -> Iterator[None]:
    process.use(process.converse(Rogue(reply), "rogue", 1.0))
    try:
        yield
    finally:
        process.close()


def done(request: wire.Instruction, frame: int, *frames: bytes, seq: int = 1) -> list[Frame]:
    answer = messages.Answer(request.request, frame, pattern="t[vs")  # type: ignore[union-attr]
    return [codec.encode(messages.Done(1, seq, [answer])), *frames]


REPLIES: dict[str, Reply] = {
    "nothing": lambda request: [],
    "no message": lambda request: [b"\xc1"],
    "no frame": lambda request: done(request, 0),
    "no such frame": lambda request: done(request, 1 << 62, b"x"),
    "no frame at all": lambda request: done(request, -7, b"x"),
    "few bytes": lambda request: done(request, 0, b"x"),
    "no bytes": lambda request: done(request, -1),
    "many bytes": lambda request: done(request, 0, bytes(1 << 16)),
    "no credit": lambda request: [codec.encode(messages.Welcome(1, (INFO,), -1))],
    "no workers": lambda request: [codec.encode(messages.Welcome(1, (), 64))],
}


@pytest.mark.parametrize("what", REPLIES)
def test_a_fetch_of_what_cannot_be_is_a_protocol_error(what: str) -> None:
    with among(REPLIES[what]), pytest.raises(ProtocolError):
        torch.ones(3, device="remote").tolist()


def test_a_query_whose_results_cannot_be_is_a_protocol_error() -> None:
    with among(lambda request: done(request, -1)), pytest.raises(ProtocolError, match=r"answered aten\.nonzero"):
        torch.ones(3, device="remote").nonzero()


def test_an_answer_without_the_statistics_that_were_asked_for_is_a_protocol_error() -> None:
    with among(lambda request: done(request, -1)), pytest.raises(ProtocolError, match="statistics"):
        process.session().worker_stats()


def test_answers_to_others_requests_and_batches_of_the_future_change_nothing() -> None:
    right = bytes(torch.ones(3).numpy().tobytes())

    def reply(request: wire.Instruction) -> list[Frame]:
        found = messages.Done(1, 1 << 60, [messages.Answer(-5, 99), messages.Answer(request.request, 0)])  # type: ignore[union-attr]
        return [codec.encode(found), right]

    with among(reply):
        assert torch.ones(3, device="remote").tolist() == [1.0] * 3
        assert process.session().done <= process.session().seq


@pytest.mark.parametrize(
    ("message", "kind"),
    [(messages.Rejected("a\x1b[2Jb"), ConnectionLostError), (messages.SessionLost("a\x1b[2Jb", 1), WorkerLostError)],
)
def test_what_a_terminal_would_obey_is_told_and_not_done(message: messages.ToClient, kind: type[GTError]) -> None:
    with among(lambda request: [codec.encode(message)]), pytest.raises(kind, match=r"a\\x1b\[2Jb"):
        torch.ones(3, device="remote").tolist()


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        ("ValueError", ValueError),
        ("UnicodeDecodeError", RuntimeError),
        ("ExceptionGroup", RuntimeError),
        ("StopIteration", RuntimeError),
        ("StopAsyncIteration", RuntimeError),
        ("KeyboardInterrupt", RuntimeError),
        ("OutOfMemoryError", torch.OutOfMemoryError),
        ("no name", RuntimeError),
    ],
)
def test_a_failure_of_any_name_is_an_exception_that_no_loop_takes_for_its_end(kind: str, raised: type[Exception]) -> None:
    made = worker_reports.exception(messages.Failure(kind, "bad\x07\nworse", "aten::mm"))
    assert type(made) is raised
    assert "bad\\x07\nworse\n  in aten::mm" in str(made)


def test_a_workers_warning_moves_no_cursor() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        worker_reports.warn(messages.Warned("UserWarning", "look \x1b[1A", 0))
    assert [str(w.message) for w in caught] == ["look \\x1b[1A"]


def test_workers_in_this_process_do_nothing_while_the_program_does() -> None:
    """They would draw random numbers from the program's own generator, on another thread."""
    with gt.fakes.System():
        drawn = torch.nn.functional.dropout(torch.ones(4, device="remote"))
        time.sleep(4 * settings().segment_age_s)
        assert process.session().segment
    del drawn
