"""The dispatcher's I/O: a bug in a decision, or an unreachable peer, ends only that peer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from gt.dispatcher import events, schedule, server, sessions, turns
from gt.dispatcher.core import Dispatcher
from gt.dispatcher.log import InstructionLog
from gt.dispatcher.state import DispatcherStats
from gt.wire import codec, messages
from gt.wire.shared import Frame

INFO = messages.WorkerInfo("worker", 1, "host", "cpu", "2.13", 1 << 30)


class Router:
    """Records what is sent. `deaf`: peers for which a send raises; `gone`: those that have disconnected."""

    poll = 0

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, list[Frame]]] = []
        self.dropped: list[bytes] = []
        self.deaf: set[bytes] = set()
        self.gone: set[bytes] = set()

    def take(self) -> list[tuple[bytes, list[Frame] | None]]:
        return []

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        if peer in self.deaf:
            raise OSError("no way to it\x1b[2J")
        if peer not in self.gone:
            self.sent.append((peer, list(frames)))
        return peer not in self.gone

    def drop(self, peer: bytes) -> None:
        self.dropped.append(peer)

    def probe(self) -> list[bytes]:
        return []

    def close(self) -> None: ...


class Bench:
    """A server between two such routers, with a worker `w` and clients `a` and `b`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: InstructionLog | None = None) -> None:
        self.clients, self.workers = Router(), Router()
        routers = iter([self.clients, self.workers])
        monkeypatch.setattr(server, "listen", lambda address, role: next(routers))
        self.dispatcher = Dispatcher(10, 8)
        self.server = server.Server("tcp://127.0.0.1:1", self.dispatcher, log, 1.0)
        self.from_worker(b"w", messages.Register(messages.PROTOCOL, INFO))
        for peer in (b"a", b"b"):
            self.from_client(peer, messages.Hello(messages.PROTOCOL, 1, "host"))

    def from_client(self, peer: bytes, message: messages.FromClient) -> None:
        self.server.act(events.FromClientEvent(peer, message, []))

    def from_worker(self, peer: bytes, message: messages.FromWorker) -> None:
        self.server.act(events.FromWorkerEvent(peer, message, []))

    def heard(self, peer: bytes) -> list[str]:
        """The kinds of the messages to a client since the last call."""
        decoded = [codec.to_client(frames[0]) for to, frames in self.clients.sent if to == peer]  # type: ignore[arg-type]
        self.clients.sent = [(to, frames) for to, frames in self.clients.sent if to != peer]
        return [type(message).__name__ for message in decoded]

    def worker_heard(self) -> list[messages.ToWorker]:
        heard = [codec.to_worker(frames[0]) for _, frames in self.workers.sent]  # type: ignore[arg-type]
        self.workers.sent.clear()
        return heard


RUN = messages.Run(1, codec.pack([1]))


def test_a_bug_on_a_clients_message_ends_that_client_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(schedule, "cut", lambda *_: 1 / 0)
        bench.from_client(b"a", RUN)
    assert bench.heard(b"a") == ["Welcome", "Rejected"]
    assert bench.clients.dropped == [b"a"]
    assert capfd.readouterr().err == "gt: a bug, on Run: ZeroDivisionError: division by zero\n"
    assert bench.dispatcher.stats() == DispatcherStats(1, 1, 0, 0, 0, 0, failed=1)
    bench.from_client(b"b", RUN)
    bench.from_worker(b"w", messages.Done(2, 1))
    assert bench.heard(b"b") == ["Welcome", "Done"]


def test_a_bug_on_a_workers_message_loses_that_worker_and_its_sessions_hear_of_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch)
    bench.from_client(b"a", RUN)
    with monkeypatch.context() as patch:
        patch.setattr(turns, "feed", lambda *_: patch.undo() or 1 / 0)  # the first time only
        bench.from_worker(b"w", messages.Done(1, 1))
    assert bench.heard(b"a") == ["Welcome", "Done", "SessionLost"]  # earlier decisions are still sent
    assert bench.heard(b"b") == ["Welcome", "SessionLost"]
    assert isinstance(bench.worker_heard()[-1], messages.Rejected)
    assert bench.workers.dropped == [b"w"]
    assert bench.dispatcher.stats().workers == 0
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_bug_that_no_peer_caused_is_said_and_that_is_all(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "expect", lambda *_: 1 / 0)
        bench.server.act(events.Expect(1))
        patch.setattr(Dispatcher, "step", lambda *_: 1 / 0)
        bench.from_client(b"a", RUN)  # deciding its end fails too
    assert capfd.readouterr().err.count("a bug, on ") == 3
    bench.from_client(b"b", RUN)
    assert len(bench.worker_heard()) == 2


def test_a_peer_that_cannot_be_sent_to_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch)
    bench.clients.deaf = {b"a"}
    bench.from_client(b"a", messages.Ping())
    assert bench.clients.dropped == [b"a"]
    assert capfd.readouterr().err == "gt: a peer is left out: OSError: no way to it\\x1b[2J\n"
    assert list(bench.dispatcher.state.clients) == [b"b"]


def test_a_worker_hears_of_the_end_of_a_session_after_all_that_was_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would start the session again, and keep it for ever."""
    bench = Bench(monkeypatch)
    for seq in range(1, turns.WINDOW + 2):
        bench.from_client(b"a", messages.Run(seq, codec.pack([1])))
    bench.worker_heard()
    bench.clients.gone = {b"a"}
    bench.from_worker(b"w", messages.Done(1, 1))  # the answer finds its client gone; the next slice is sent along with it
    kinds = [type(message).__name__ for message in bench.worker_heard()]
    assert kinds == ["Execute", "EndSession"]


def test_a_bug_in_the_instruction_log_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bench = Bench(monkeypatch, InstructionLog(str(tmp_path / "log")))
    monkeypatch.setattr(InstructionLog, "write", lambda *_: 1 / 0)
    bench.from_client(b"a", RUN)
    assert [type(message).__name__ for message in bench.worker_heard()] == ["Registered", "Execute"]
    assert "the instruction log, which lacks something now" in capfd.readouterr().err


class Noted(InstructionLog):
    """Remembers the messages it was given."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.told: list[tuple[object, ...]] = []

    def write(self, now: float, worker: str, execute: messages.Execute) -> None:
        self.told.append((worker, execute.session))

    def forget(self, session: int) -> None:
        self.told.append((session,))


def test_the_log_hears_of_executions_with_the_workers_name_and_of_the_end_of_every_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also of a session that ends while it has no worker, so that no worker is told."""
    log = Noted(str(tmp_path / "log"))
    bench = Bench(monkeypatch, log)
    bench.from_client(b"a", RUN)
    bench.server.act(events.WorkerGone(b"w"))
    bench.from_client(b"a", messages.Goodbye())
    bench.server.act(events.ClientGone(b"b"))
    assert log.told == [("worker", 1), (1,), (2,)]
