"""The dispatcher's decisions, by a seeded simulator with real workers and no clock but a virtual one."""

from __future__ import annotations

import random

import msgspec
import pytest

from gt.dispatcher import core
from gt.fakes import System
from gt.wire import codec, messages
from gt.wire import instructions as wire
from tests.sim.clients import SCALAR, Client, check


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
    assert [len(s.memory.storages) for s in system.workers[b"worker0"].sessions.values()] == [1, 1]


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
    assert steps <= 2 * core.WINDOW + 2
    assert system.dispatcher.stats().queued_slices > 100


def test_a_lost_worker_is_named_and_the_session_goes_on_elsewhere() -> None:
    system = System(workers=2)
    client = Client(system)
    client.start(1)
    system.settle()
    client.received()
    lost = system.dispatcher.sessions[1].worker
    assert lost is not None
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
    assert list(system.workers[b"worker0"].sessions) == [2]
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
    bad.run([wire.Upload(1, SCALAR, 5, 0)])  # a frame that is not there
    bad.run([wire.Fetch(1, 77, SCALAR)])  # a tensor that is not there
    bad.run([wire.Op(9, 1, (2,), 0)])  # a call that is not there
    bad.run([wire.Define(3, "aten::from_file", ["/etc/passwd"], {}, [], [SCALAR]), wire.Op(3, 5, (), 0)])
    bad.run([wire.Define(4, "os.system", ["true"], {}, [], [SCALAR]), wire.Op(4, 6, (), 0), wire.Fetch(2, 6, SCALAR)])
    for junk in (b"\x01", b"\x91\xa1x", b"\x91\x92\x63\x01", b"\xdd\xff\xff\xff\xff"):  # msgpack, and no instructions
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
    system.act(core.Expect(1))
    client = Client(system)
    system.settle()
    assert client.received() == []
    system.act(core.Expect(0))
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
    assert told[1].worker.name == "late"  # type: ignore[union-attr]
