"""Sessions of several workers among others: no deadlock, fair turns, and peers that say what is not theirs to say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from gt.dispatcher import events
from gt.dispatcher.core import Dispatcher
from gt.dispatcher.turns import WINDOW
from gt.errors import ProtocolError
from gt.fakes import System
from gt.placement.layout import ParamRule, Replicate, Shard
from gt.wire import codec, messages
from gt.wire import instructions as wire
from tests.sim import gangs
from tests.sim.clients import SCALAR, Client, check
from tests.sim.histories import ONLY_PLANNERS_SAY, on_mesh

VECTOR = wire.Geometry((4,), (1,), 0, "float32")


def test_a_hundred_crowded_services_without_a_deadlock() -> None:
    executed = gangs.play_many(100, 3)
    assert set(executed) == {1, 2, 3, 4}
    assert min(executed.values()) > 100


def answered(client: Client) -> bool:
    return any(getattr(codec.to_client(f[0]), "answers", None) for f in client.transport.arrived)


@pytest.mark.parametrize("flooding", [None, on_mesh(2)])
@pytest.mark.parametrize("asking", [None, on_mesh(2)])
def test_a_flood_delays_another_session_by_no_more_than_a_window_whether_gangs_or_not(flooding: Any, asking: Any) -> None:
    system = System(workers=2, worker_batch_size=8)
    clients = [Client(system, flooding), Client(system, asking)]
    if flooding is None and asking is None:
        clients += [Client(system), Client(system)]  # two on each worker
    for client in clients:
        client.start(5)
    system.settle()
    for client in clients:
        client.received()
    flood, other = clients[0], clients[2 if len(clients) > 2 else 1]
    flood.add(4000, 1)
    while system.inbox:
        system.step()
    other.run([wire.Fetch(1, 1, SCALAR)])
    steps = 0
    while not answered(other):
        assert system.step()
        steps += 1
    assert steps <= 2 * WINDOW + 2
    assert system.dispatcher.stats().queued_slices > 100


def test_many_sessions_of_one_worker_starve_no_gang() -> None:
    system = System(workers=2, worker_batch_size=8)
    singles, gang = [Client(system) for _ in range(10)], Client(system, on_mesh(2))
    for client in [*singles, gang]:
        client.start(0)
    system.settle()
    for client in singles:
        client.add(800, 1)
    gang.add(80, 1)
    while system.inbox:
        system.step()
    rounds = 0
    while system.dispatcher.state.sessions[11].underway:
        assert system.step()
        rounds += 1
    assert rounds <= 21 * (10 / 2 + 1) + 2 * WINDOW  # 21 slices, each in its turn after one of five others
    assert system.dispatcher.stats().queued_slices > 100


# -- what is not a peer's to say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [*ONLY_PLANNERS_SAY, [wire.Crossing(1, VECTOR, "a"), wire.Argument(1, VECTOR, "x")]])
@pytest.mark.parametrize("sharding", [None, on_mesh(1), on_mesh(2)])
def test_what_only_planners_and_configured_clients_say_concerns_their_own_session_only(items: Any, sharding: Any) -> None:
    system = System(workers=2)
    good, bad = Client(system, on_mesh(2)), Client(system, sharding)
    good.start(3)
    bad.run(items)
    bad.run([wire.Synchronize(1)])
    told = [answer.failure.message for answer in bad.answers() if answer.failure is not None]
    assert sharding is not None or "in a session of one worker" in told[0]
    assert good.fetch() == 3
    check(system)


def hello_with(**changes: Any) -> bytes:
    """The bytes of a Hello whose sharding says what no configuration may."""
    told = msgspec.msgpack.decode(codec.encode(messages.Hello(messages.PROTOCOL, 1, "host", on_mesh(2))))
    told["sharding"].update(changes)
    return msgspec.msgpack.encode(told)


@pytest.mark.parametrize(
    "changes",
    [
        {"mesh": {"axes": ["a"], "sizes": [0]}},
        {"mesh": {"axes": ["a"], "sizes": [-2]}},
        {"mesh": {"axes": ["a", "a"], "sizes": [1, 2]}},
        {"mesh": {"axes": [], "sizes": []}},
        {"mesh": {"axes": ["a"] * 17, "sizes": [1] * 17}},
        {"mesh": {"axes": ["axis0"], "sizes": [1 << 60]}},
        {"workers": [0]},
        {"workers": ["x"] * 70_000},
        {"params": [{"pattern": "**", "placements": {"nowhere": {"type": "replicate"}}}]},
        {"params": [{"pattern": "{a,b}" * 400, "placements": {}}]},
        {"params": [{"pattern": "**", "placements": {"axis0": {"type": "shard", "dim": 1 << 40}}}]},
        {"params": 7},
    ],
)
def test_a_hello_with_a_sharding_that_no_file_could_say_is_malformed(changes: Any) -> None:
    with pytest.raises(ProtocolError):
        codec.from_client(hello_with(**changes))


def test_a_mesh_too_large_for_the_service_and_workers_it_lacks_are_refused_with_what_there_is() -> None:
    system = System(workers=2)
    told = []
    for sharding in (on_mesh(65_536), on_mesh(2, workers=("worker0", "worker9")), on_mesh(2, workers=(0, "worker0"))):
        (message,) = Client(system, sharding).received()
        assert isinstance(message, messages.Rejected)
        told.append(message.reason)
    assert "needs 65536 workers, the service has 2: start it with `gt serve --workers N`" in told[0]
    assert "has no worker 'worker9'; legal: worker0, worker1" in told[1]
    assert "'worker0' is there twice, by its name or number" in told[2]
    (welcome,) = Client(system, on_mesh(2, workers=("worker1", 0))).received()
    assert isinstance(welcome, messages.Welcome)
    assert [worker.name for worker in welcome.workers] == ["worker1", "worker0"]


@pytest.mark.parametrize("other", [{"torch": "2.0.0"}, {"device": "cuda:0"}])
def test_the_workers_of_a_session_have_one_type_of_device_and_one_version_of_torch(other: dict[str, str]) -> None:
    system = System(workers=3)
    info = msgspec.structs.replace(system.workers[b"worker0"].info(), name="another", **other)
    system.act(events.FromWorkerEvent(b"another", messages.Register(messages.PROTOCOL, info), []))
    (welcome,) = Client(system, on_mesh(3)).received()
    assert isinstance(welcome, messages.Welcome)
    assert [worker.name for worker in welcome.workers] == ["worker0", "worker1", "worker2"]
    for sharding in (on_mesh(4), on_mesh(2, workers=("another", "worker1"))):
        (told,) = Client(system, sharding).received()
        assert isinstance(told, messages.Rejected)
        assert "all on one type of device and with one version of torch; the service has another (" in told.reason
        assert f"({info.device}, torch {info.torch}), worker0 (cpu, torch {torch.__version__})" in told.reason
    (alone,) = Client(system).received()
    assert isinstance(alone, messages.Welcome)
    assert [worker.name for worker in alone.workers] == ["another"]
    check(system)


def test_a_gang_that_waits_for_workers_which_have_died_is_sent_away() -> None:
    system = System(workers=1)
    system.act(events.Expect(3))
    waits = Client(system, on_mesh(3))
    system.settle()
    assert waits.received() == []
    system.act(events.Expect(2))
    (told,) = waits.received()
    assert isinstance(told, messages.Rejected)
    assert "ended before they were ready" in told.reason
    assert "needs 3 workers, the service has 2" in told.reason


class Bare:
    """A dispatcher's core with workers `a` and `b`, and a gang of both with one batch under way."""

    def __init__(self) -> None:
        self.core = Dispatcher(512, 8)
        for name in ("a", "b"):
            info = messages.WorkerInfo(name, 1, "host", "cpu", "2.13", 1 << 30)
            self.worker(name, messages.Register(messages.PROTOCOL, info))
        self.client(messages.Hello(messages.PROTOCOL, 1, "host", on_mesh(2)))
        self.client(messages.Run(1, codec.pack([wire.Synchronize(1)])))

    def client(self, message: messages.FromClient) -> list[events.Action]:
        return self.core.step(events.FromClientEvent(b"c", message, []))

    def worker(self, name: str, message: messages.FromWorker) -> list[events.Action]:
        return self.core.step(events.FromWorkerEvent(name.encode(), message, []))


def failed(kind: str) -> list[messages.Answer]:
    return [messages.Answer(1, failure=messages.Failure(kind, "text"))]


def test_a_slice_is_done_once_each_member_has_reported_it_and_only_once() -> None:
    bare = Bare()
    fine = messages.Done(1, 1, [messages.Answer(1)])
    assert bare.worker("b", fine) == []
    assert bare.worker("b", fine) == []  # again
    assert bare.worker("stranger", fine) == []
    assert bare.worker("a", messages.Done(1, 0)) == []  # of another slice
    assert bare.core.stats().malformed == 3
    (told,) = bare.worker("a", fine)
    assert isinstance(told.message, messages.Done)  # type: ignore[union-attr]
    assert bare.core.stats().malformed == 3


VERDICTS: list[Any] = [
    ([messages.Answer(1)], failed("IndexError")),
    (failed("PeerError"), failed("IndexError")),
    (failed("IndexError"), failed("PeerError")),
    (failed("IndexError"), failed("ValueError")),
]


@pytest.mark.parametrize(("of_a", "of_b"), VERDICTS)
def test_a_failure_of_any_member_is_told_and_a_cause_before_what_followed_from_it(of_a: Any, of_b: Any) -> None:
    bare = Bare()
    bare.worker("b", messages.Done(1, 1, of_b))
    (told,) = bare.worker("a", messages.Done(1, 1, of_a))
    assert told.message.answers == failed("IndexError")  # type: ignore[union-attr]


def test_what_all_members_have_alike_after_a_failure_is_recovered_before_the_next_batch() -> None:
    """What had been begun, if it is replicated; what a member does not name, or names otherwise, and strangers are not."""
    bare = Bare()
    (session,) = bare.core.state.sessions.values()
    assert session.planner is not None
    for id, placed in ((5, (None,)), (6, (None,)), (7, (1,)), (8, (1,)), (9, (None,)), (10, (None,)), (11, (None,))):
        session.planner.storages.add(id, wire.Geometry((4,), (1,), 0, "float32"), placed)
    both = [(5, b""), (6, b"x"), (7, b""), (8, b"x"), (99, b"")]
    of_a = [*both, (9, b"x"), (10, b"")]
    of_b = [*both, (9, b"y"), (11, b"")]
    for name, found in (("a", of_a), ("b", of_b)):
        recoverable = [messages.Recoverable(id, (1, id), content) for id, content in found]
        told = bare.worker(name, messages.Done(1, 1, failed("IndexError"), recoverable=recoverable))
    assert told[0].message == messages.Done(1, 1, failed("IndexError"))  # type: ignore[union-attr]
    for seq, expected in ((2, {5, 6, 7}), (3, set())):
        sent = bare.client(messages.Run(seq, codec.pack([wire.Synchronize(seq)])))
        items = codec.unpack(sent[0].message.items)  # type: ignore[union-attr]
        assert {id for item in items if isinstance(item, wire.Recover) for id in item.ids} == expected


def test_rules_may_name_any_axis_of_the_mesh() -> None:
    assert on_mesh(2).params == (ParamRule("**", {"axis0": Shard(0)}), ParamRule("*", {"axis0": Replicate()}))
