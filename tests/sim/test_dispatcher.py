"""The dispatcher's decisions, in a seeded simulator with real workers and a virtual clock."""

from __future__ import annotations

import random

import msgspec
import pytest

from gt.dispatcher import events
from gt.dispatcher.core import Dispatcher
from gt.dispatcher.schedule import OVERDRAFT
from gt.dispatcher.turns import WINDOW
from gt.fakes import System
from gt.wire import codec, messages
from gt.wire import instructions as wire
from tests.sim.clients import SCALAR, Client, check
from tests.sim.invariants import check as check_core


@pytest.mark.parametrize("seed", range(5))
def test_two_clients_that_interleave_never_see_each_others_values(seed: int) -> None:
    pick = random.Random(seed)
    system = System(workers=1, worker_batch_size=16)
    clients = [Client(system), Client(system)]
    for i, client in enumerate(clients):
        client.start(1_000_000 * (i + 1))
    for _ in range(300):
        client = pick.choice(clients)
        client.add(pick.randrange(1, 40), pick.randrange(10))
        for _ in range(pick.randrange(4)):
            system.step()
            check(system)
        if pick.random() < 0.1:
            assert client.fetch() == client.value
    assert [c.fetch() for c in clients] == [c.value for c in clients]
    assert [len(s.memory.storages) for s in system.workers[b"worker0"].host.sessions.values()] == [1, 1]


def test_a_flood_delays_another_session_by_no_more_than_a_window() -> None:
    system = System(workers=1, worker_batch_size=8)
    flood, other = Client(system), Client(system)
    flood.start(0)
    other.start(5)
    system.settle()
    flood.add(4000, 1)
    while system.inbox:
        system.step()
    other.run([wire.Fetch(1, 1, SCALAR)])
    steps = 0
    while not any(getattr(codec.to_client(f[0]), "answers", None) for f in other.transport.arrived):
        assert system.step()
        steps += 1
    assert steps <= 2 * WINDOW + 2
    assert system.dispatcher.stats().queued_slices > 100


def test_a_lost_worker_is_named_and_the_session_goes_on_elsewhere() -> None:
    system = System(workers=2)
    client = Client(system)
    client.start(1)
    system.settle()
    client.received()
    (lost,) = system.dispatcher.state.sessions[1].workers
    system.kill_worker(lost.decode())
    losses = [m for m in client.received() if isinstance(m, messages.SessionLost)]
    assert len(losses) == 1
    assert lost.decode() in losses[0].reason
    client.run([wire.Op(1, 9, (1, 1), 0)])  # sent before the client knew
    client.epoch = losses[0].epoch
    client.start(7)
    assert client.fetch() == 7
    check(system)


def test_a_client_that_is_gone_leaves_nothing() -> None:
    system = System()
    gone, stays = Client(system), Client(system)
    gone.start(1)
    stays.start(2)
    gone.add(100, 1)
    gone.transport.close()
    system.settle()
    assert stays.fetch() == 2
    assert list(system.workers[b"worker0"].host.sessions) == [2]
    assert system.dispatcher.stats().sessions == 1


def test_malformed_frames_are_counted_and_harm_no_one() -> None:
    system = System()
    good, bad = Client(system), Client(system)
    good.start(3)
    for frame in (
        b"",
        b"\xff\x00junk",
        codec.encode(messages.Stop()),
        codec.encode(messages.Hello(messages.PROTOCOL, 1, "again")),
    ):
        bad.transport.send([frame])
    bad.run([wire.Upload(1, SCALAR, 5, 0)])  # a missing frame
    bad.run([wire.Fetch(1, 77, SCALAR)])  # a missing tensor
    bad.run([wire.Op(9, 1, (2,), 0)])  # a missing definition
    bad.run([wire.Define(3, "aten::from_file", ["/etc/passwd"], {}, [], [SCALAR]), wire.Op(3, 5, (), 0)])
    bad.run([wire.Define(4, "os.system", ["true"], {}, [], [SCALAR]), wire.Op(4, 6, (), 0), wire.Fetch(2, 6, SCALAR)])
    for junk in (b"\x01", b"\x91\xa1x", b"\x91\x92\x63\x01", b"\xdd\xff\xff\xff\xff"):  # msgpack, but not instructions
        bad.seq += 1
        bad.transport.send([codec.encode(messages.Run(bad.seq, msgspec.Raw(junk)))])
    answers = bad.answers()
    assert [a.failure is not None for a in answers] == [True, True]
    assert "not an operator" in answers[1].failure.message  # type: ignore[union-attr]
    assert system.dispatcher.stats().malformed == 8
    assert good.fetch() == 3


def test_another_protocol_is_rejected_with_the_reason() -> None:
    system = System()
    transport = system.connect()
    transport.send([codec.encode(messages.Hello(99, 1, "test"))])
    answer = codec.to_client(transport.receive(0.0)[0])  # type: ignore[index]
    assert isinstance(answer, messages.Rejected)
    assert "99" in answer.reason


def test_clients_that_wait_for_workers_hear_that_there_will_be_none() -> None:
    system = System(workers=0)
    system.act(events.Expect(1))
    client = Client(system)
    system.settle()
    assert client.received() == []
    system.act(events.Expect(0))
    (answer,) = client.received()
    assert isinstance(answer, messages.Rejected)
    assert "ended before they were ready" in answer.reason
    check(system)
    assert system.dispatcher.stats().sessions == 0


def test_a_session_that_goes_on_elsewhere_is_told_where() -> None:
    system = System(workers=1)
    client = Client(system)
    client.start(1)
    system.settle()
    client.received()
    system.kill_worker("worker0")
    system.add_worker("late")
    told = client.received()
    assert [type(m).__name__ for m in told] == ["SessionLost", "Welcome"]
    assert [worker.name for worker in told[1].workers] == ["late"]  # type: ignore[union-attr]


INFO = messages.WorkerInfo("worker", 1, "host", "cpu", "2.13", 1 << 30)


class Bare:
    """A dispatcher's core alone, with one worker `w` and one client `c` of two batches under way."""

    def __init__(self) -> None:
        self.core = Dispatcher(512, 8)
        self.from_worker(messages.Register(messages.PROTOCOL, INFO))
        self.from_client(messages.Hello(messages.PROTOCOL, 1, "host"))
        self.run(1)
        self.run(2)

    def from_worker(self, message: messages.FromWorker, frames: int = 0, peer: bytes = b"w") -> list[events.Action]:
        return self.core.step(events.FromWorkerEvent(peer, message, [b""] * frames))

    def from_client(self, message: messages.FromClient, peer: bytes = b"c") -> list[events.Action]:
        return self.core.step(events.FromClientEvent(peer, message, []))

    def run(self, seq: int, epoch: int = 0) -> list[events.Action]:
        return self.from_client(messages.Run(seq, codec.pack([1]), epoch))


def refused(actions: list[events.Action]) -> str:
    (action,) = actions
    assert isinstance(action.message, messages.Rejected)
    return action.message.reason


def test_a_worker_that_registers_twice_keeps_its_sessions_and_they_may_leave() -> None:
    bare = Bare()
    assert bare.from_worker(messages.Register(messages.PROTOCOL, INFO)) == []
    ended, told = bare.from_client(messages.Goodbye())
    assert (ended, told.message) == (events.SessionEnded(1), messages.EndSession(1))  # type: ignore[union-attr]
    assert bare.from_worker(messages.Done(1, 1)) == []
    assert bare.core.stats().malformed == 1
    check_core(bare.core)


OUT_OF_ORDER: dict[str, messages.FromClient] = {
    "again": messages.Hello(messages.PROTOCOL, 1, "host"),
    "sent before": messages.Run(2, codec.pack([1])),
    "left out one": messages.Run(4, codec.pack([1])),
    "huge": messages.Run((1 << 64) - 1, codec.pack([1])),
    "backwards": messages.Run(-1, codec.pack([1])),
    "of the future": messages.Run(3, codec.pack([1]), 1),
}


@pytest.mark.parametrize("what", OUT_OF_ORDER)
def test_a_clients_message_out_of_order_is_dropped_and_counted_and_the_next_one_is_taken(what: str) -> None:
    bare = Bare()
    assert bare.from_client(OUT_OF_ORDER[what]) == []
    assert bare.core.stats().malformed == 1
    assert [type(a.message) for a in bare.run(3)] == [messages.Execute]


def test_who_is_no_client_is_told_so_and_counted() -> None:
    bare = Bare()
    assert "not open" in refused(bare.from_client(messages.Run(1, codec.pack([])), b"other"))
    assert "that is where" in refused(bare.from_client(messages.Register(messages.PROTOCOL, INFO), b"other"))
    assert "that is where" in refused(bare.from_worker(messages.Hello(messages.PROTOCOL, 1, "host"), 0, b"other"))
    assert bare.from_client(messages.Goodbye(), b"other") == []
    assert bare.core.stats().malformed == 4


NOT_OWED: dict[str, messages.Done] = {
    "of another session": messages.Done(2, 1),
    "of no session": messages.Done(-1, 1),
    "of no slice": messages.Done(1, 7),
    "before its turn": messages.Done(1, 2, [messages.Answer(1)]),
    "of a part": messages.Done(1, 0, [messages.Answer(1, 0)]),
}


@pytest.mark.parametrize("what", NOT_OWED)
def test_what_a_worker_reports_and_does_not_owe_reaches_nobody(what: str) -> None:
    bare = Bare()
    bare.from_worker(messages.Register(messages.PROTOCOL, INFO), 0, b"other")
    bare.from_client(messages.Hello(messages.PROTOCOL, 1, "host"), b"victim")
    assert bare.from_worker(NOT_OWED[what], 1) == []
    assert bare.from_worker(messages.Done(1, 1), 0, b"other") == []
    assert bare.core.stats().malformed == 2
    (answer,) = bare.from_worker(messages.Done(1, 1))
    assert answer.peer == b"c"


def test_an_answer_that_names_a_frame_that_is_not_there_is_a_failure_for_who_waits() -> None:
    bare = Bare()
    answers = [messages.Answer(i, frame) for i, frame in enumerate([0, -1, 1, -2, 1 << 63])]
    (told,) = bare.from_worker(messages.Done(1, 1, answers), frames=1)
    assert isinstance(told.message, messages.Done)
    assert [a.failure.kind if a.failure else None for a in told.message.answers] == [None, None, *["ProtocolError"] * 3]
    assert bare.core.stats().malformed == 3


@pytest.mark.parametrize("name", ["\x1b[2J", "two\nlines", "\u202eevil", "x" * 101])
def test_a_worker_whose_name_nobody_can_print_is_sent_away(name: str) -> None:
    bare = Bare()
    register = messages.Register(messages.PROTOCOL, msgspec.structs.replace(INFO, name=name))
    assert refused(bare.from_worker(register, 0, b"other")) == "the worker's name: at most 100 printable characters"
    assert list(bare.core.state.workers) == [b"w"]


def test_a_client_that_heeds_no_credit_is_sent_away() -> None:
    bare = Bare()
    most = bare.core.state.credit + OVERDRAFT
    told = [action.message for seq in range(3, most + 1) for action in bare.run(seq)]
    assert [type(message) for message in told] == [messages.Execute] * (WINDOW - 2)
    assert f"sent {most} batches ahead" in bare.run(most + 1)[0].message.reason  # type: ignore[union-attr]
    assert bare.core.stats().queued_slices == 0
    check_core(bare.core)


def test_a_batch_that_finds_no_worker_takes_with_it_what_was_sent_before_its_client_knew() -> None:
    """Otherwise later batches would run on the next worker, as if nothing were missing."""
    bare = Bare()
    bare.core.step(events.WorkerGone(b"w"))
    (lost,) = bare.run(3, epoch=1)
    assert lost.message.epoch == 2  # type: ignore[union-attr]
    bare.from_worker(messages.Register(messages.PROTOCOL, INFO), 0, b"next")
    assert bare.run(4, epoch=1) == []
    assert [type(a.message) for a in bare.run(5, epoch=2)] == [messages.Execute]


def test_who_comes_and_goes_in_haste_fills_no_worker() -> None:
    """A busy worker has at most a window of pending slices, and a session end for each."""
    bare = Bare()
    told = 0
    for number in range(50):
        peer = b"hasty%d" % number
        bare.from_client(messages.Hello(messages.PROTOCOL, 1, "host"), peer)
        actions = [*bare.from_client(messages.Run(1, codec.pack([1])), peer), *bare.from_client(messages.Goodbye(), peer)]
        told += sum(isinstance(a, events.TellWorker) for a in actions)
    assert told <= 2 * WINDOW
