"""Histories of a dispatcher whose peers are honest or send anything: it must serve the honest ones.

    python -m tests.sim.histories 100000 [SEED]

A history is a string of bytes, each of which picks the next event; `invariants` are checked after every step, and the
honest peers assert what they may expect. Some sessions are on several workers: each of their slices is a collective, which
ends at none of them before all have begun it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from gt.dispatcher import events
from gt.dispatcher.core import Dispatcher
from gt.dispatcher.state import SessionState
from gt.placement.layout import ParamRule, Replicate, Shard, Sharding
from gt.placement.mesh import Mesh
from gt.wire import codec, messages
from gt.wire import instructions as wire
from tests.sim import invariants
from tests.sim.peers import CREDIT, Client, Gang, Worker

LENGTHS = {"min_size": 60, "max_size": 240}
WORKER_BATCH_SIZE = 3
NUMBERS = [0, 1, 2, 3, 4, 5, -1, 7, 1 << 32, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1]
NAMES = ["w", "", "x" * 1000, "\x1b[2J", "line\nline", "\x00", "\u202e"]
ITEMS = [[], [1], [1, 2, 3, 4, 5], [wire.Upload(1, wire.Geometry((), (), 0, "int8"), 9, 0)] * 5]
RAW = [b"\x01", b"\xdd\xff\xff\xff\xff", b"\x94\xa1x\x01\x01\x01", b"\xdc\x00\x10" + b"\xc0" * 16]
ONLY_PLANNERS_SAY: list[Any] = [
    [wire.AllReduce(0, "sum", (wire.Part(1, 3, "float32"),)), wire.Fetch(1, 1, wire.Geometry((3,), (1,), 0, "float32"))],
    [wire.Cut(0, 1, 1), wire.Once(0, 1, 2), wire.Coordinate(9, 1, 3)],
    [wire.Name(1, wire.Geometry((4,), (1,), 0, "float32"), "a.b"), wire.Gradients([(1, 2)]), 1],
]
BATCHES = [*map(codec.pack, ONLY_PLANNERS_SAY), *map(codec.pack, ITEMS), *map(msgspec.Raw, RAW)]


def on_mesh(*sizes: int, workers: tuple[str | int, ...] = ()) -> Sharding:
    axes = tuple(f"axis{i}" for i in range(len(sizes)))
    return Sharding(
        Mesh(axes, sizes), workers, (ParamRule("**", {axes[0]: Shard(0)}), ParamRule("*", {axes[0]: Replicate()}))
    )


SHARDINGS = [None, None, on_mesh(2), on_mesh(3), on_mesh(1), on_mesh(2, 2)]
HOSTILE = [
    *SHARDINGS,
    on_mesh(65_536),
    on_mesh(2, workers=("w2", "w1")),
    on_mesh(2, workers=(0, "w2")),
    on_mesh(1, workers=(7,)),
]


class Picks:
    """The bytes of a history, one by one; zeros past its end."""

    def __init__(self, history: bytes) -> None:
        self._bytes = iter(history)
        self.over = False

    def below(self, count: int) -> int:
        byte = next(self._bytes, None)
        self.over = byte is None
        return (byte or 0) % count

    def one(self, options: Any) -> Any:
        return options[self.below(len(options))]


INFO = messages.WorkerInfo("worker", 1, "host", "cpu", "2.13", 1 << 30)


class World:
    """A dispatcher and its peers. A name mapped to None in `workers` or `clients` is a rogue's."""

    def __init__(self, history: bytes, rogues: bool = True) -> None:
        self.pick = Picks(history)
        self.dispatcher = Dispatcher(WORKER_BATCH_SIZE, CREDIT, expected_workers=self.pick.below(2))
        self.clients: dict[bytes, Client | None] = {}
        self.workers: dict[bytes, Worker | None] = {}
        self.gangs: dict[str, Gang] = {}
        """By the place where their workers meet."""
        self.names = self.tags = self.steps = 0
        self.join_client()
        self.join_worker()
        if rogues:
            self.join_rogue_client()
            self.join_rogue_worker()

    def next_tag(self) -> int:
        self.tags += 1
        return self.tags

    def next_name(self) -> bytes:
        self.names += 1
        return b"%d" % self.names

    # -- the dispatcher --------------------------------------------------------------------------------------------------

    def step(self, event: events.Event) -> None:
        self.steps += 1
        actions = self.dispatcher.step(event)
        invariants.check(self.dispatcher)
        honest = {s.peer for s in self.dispatcher.state.sessions.values() if all(map(self.workers.get, s.workers))}
        for action in actions:
            if isinstance(action, events.SessionEnded):
                continue
            frames: Any = list(action.frames)
            if isinstance(action, events.TellWorker):
                if (worker := self.workers[action.peer]) is not None:
                    worker.inbox.append((action.message, frames))
                elif isinstance(action.message, messages.Execute | messages.EndSession):
                    assert action.peer in self.dispatcher.state.workers
            elif (client := self.clients[action.peer]) is not None:
                client.hear(action.message, frames, action.peer in honest)

    def post(self, peer: bytes) -> bool:
        """The dispatcher receives the next message of an honest peer. False if there is none."""
        if (sender := self.clients.get(peer) or self.workers.get(peer)) and sender.mail:
            message, frames = sender.mail.popleft()
            event = events.FromClientEvent if isinstance(sender, Client) else events.FromWorkerEvent
            self.step(event(peer, message, list(frames)))
            return True
        return False

    # -- possible events -------------------------------------------------------------------------------------------------

    def join_client(self) -> None:
        if len(self.clients) < 6:
            name = self.next_name()
            self.clients[name] = Client(self.next_tag, name, self.pick.one(SHARDINGS))

    def join_rogue_client(self) -> None:
        if len(self.clients) < 6:
            self.clients[self.next_name()] = None

    def join_worker(self) -> None:
        if len(self.workers) < 4:
            name = self.next_name()
            self.workers[name] = Worker(self.gangs, name, msgspec.structs.replace(INFO, name=f"w{name.decode()}"))

    def join_rogue_worker(self) -> None:
        if len(self.workers) < 4:
            self.workers[self.next_name()] = None

    def client_runs(self) -> None:
        if honest := [c for c in self.clients.values() if c is not None]:
            self.pick.one(honest).run(self.pick.below(8))

    def client_posts(self) -> None:
        if self.clients:
            self.post(self.pick.one(list(self.clients)))

    def worker_works(self) -> None:
        if honest := [w for w in self.workers.values() if w is not None]:
            self.pick.one(honest).work()

    def worker_posts(self) -> None:
        if self.workers:
            self.post(self.pick.one(list(self.workers)))

    def client_leaves(self) -> None:
        if self.clients:
            peer = self.pick.one(list(self.clients))
            if self.pick.below(2):
                self.step(events.FromClientEvent(peer, messages.Goodbye(), []))
            self.step(events.ClientGone(peer))
            del self.clients[peer]

    def worker_dies(self) -> None:
        if self.workers:
            peer = self.pick.one(list(self.workers))
            self.step(events.WorkerGone(peer))
            del self.workers[peer]

    def expect(self) -> None:
        self.step(events.Expect(self.pick.below(2)))

    def malformed(self) -> None:
        before = self.dispatcher.stats().malformed
        self.step(events.Malformed(b"?"))
        assert self.dispatcher.stats().malformed == before + 1

    def rogue_client(self) -> None:
        if rogues := [name for name, client in self.clients.items() if client is None]:
            self.step(self.rogue_client_event(self.pick.one(rogues)))

    def rogue_client_event(self, peer: bytes) -> events.FromClientEvent:
        frames: Any = [b"", bytes(8), b"x"][: self.pick.below(4)]
        return events.FromClientEvent(peer, self.pick.one(FROM_ROGUE_CLIENTS)(self), frames)

    def rogue_worker(self) -> None:
        if rogues := [name for name, worker in self.workers.items() if worker is None]:
            self.step(self.rogue_worker_event(self.pick.one(rogues)))

    def rogue_worker_event(self, peer: bytes) -> events.FromWorkerEvent:
        frames: Any = [b"", bytes(8)][: self.pick.below(3)]
        return events.FromWorkerEvent(peer, self.pick.one(FROM_ROGUE_WORKERS)(self, peer), frames)

    def rogue_fails(self) -> None:
        """As if `step` had raised on an event."""
        names = {**self.clients, **self.workers}
        if rogues := [name for name, peer in names.items() if peer is None]:
            peer = self.pick.one(rogues)
            event = self.rogue_client_event if peer in self.clients else self.rogue_worker_event
            self.step(events.Failed(event(peer), "a bug"))

    # -- the end ---------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Once the rogues have gone, the honest peers get all their answers, and leave nothing behind."""
        for peer in [name for name, client in self.clients.items() if client is None]:
            self.step(events.ClientGone(peer))
        for peer in [name for name, worker in self.workers.items() if worker is None]:
            self.step(events.WorkerGone(peer))
            del self.workers[peer]
        while len(self.workers) < 4:
            self.join_worker()
        self.rest()
        clients = [c for c in self.clients.values() if c is not None and not c.is_rejected]
        for client in clients:
            assert client.is_open
            client.run(7)
        self.rest()
        for client in clients:
            assert (list(client.sent), client.asked) == ([], set())
            self.step(events.ClientGone(client.peer))
        self.rest()
        assert (self.dispatcher.state.sessions, self.dispatcher.state.clients) == ({}, {})
        for worker in self.workers.values():
            assert worker is not None
            assert worker.held == {}
            assert not self.dispatcher.state.workers[worker.peer].underway

    def rest(self) -> None:
        while self.is_busy():
            posted = [self.post(peer) for peer in [*self.clients, *self.workers]]
            worked = [worker.work() for worker in self.workers.values() if worker is not None]
            assert any(posted) or any(worked), "workers wait for each other"

    def is_busy(self) -> bool:
        waits = any(peer.mail for peer in (*self.clients.values(), *self.workers.values()) if peer is not None)
        return waits or any(worker.inbox or worker.waits for worker in self.workers.values() if worker is not None)


def rogue_hello(world: World) -> messages.FromClient:
    protocol = world.pick.one([messages.PROTOCOL, messages.PROTOCOL, 99])
    return messages.Hello(protocol, -1, world.pick.one(NAMES), world.pick.one(HOSTILE))


def rogue_run(world: World) -> messages.FromClient:
    return messages.Run(world.pick.one(NUMBERS), world.pick.one(BATCHES), world.pick.one([0, *NUMBERS]))


def next_run(world: World) -> messages.FromClient:
    """A batch with the number that some session expects next."""
    session = world.pick.one([*world.dispatcher.state.sessions.values(), SessionState(1, b"")])
    return messages.Run(session.seq + 1, world.pick.one(BATCHES), session.epoch)


def rogue_register(world: World, *_: bytes) -> messages.Register:
    name, host = world.pick.one(NAMES), world.pick.one(["host", *NAMES])
    return messages.Register(world.pick.one([messages.PROTOCOL, 99]), msgspec.structs.replace(INFO, name=name, host=host))


def rogue_answers(world: World) -> list[messages.Answer]:
    number = world.pick.one(NUMBERS)
    return [messages.Answer(number, world.pick.one([0, *NUMBERS])) for _ in range(world.pick.below(3))]


def rogue_done(world: World, peer: bytes) -> messages.FromWorker:
    return messages.Done(world.pick.one(NUMBERS), world.pick.one(NUMBERS), rogue_answers(world), world.pick.below(2) == 1)


def due_done(world: World, peer: bytes) -> messages.FromWorker:
    """A report that some worker owes, this one or another."""
    owed = [(due.session, due.ends) for w in world.dispatcher.state.workers.values() for due in w.underway]
    return messages.Done(*world.pick.one([(1, 1), *owed]), rogue_answers(world))


FROM_ROGUE_CLIENTS: list[Callable[[World], messages.FromClient]] = [
    rogue_hello,
    rogue_run,
    next_run,
    next_run,
    next_run,
    rogue_register,
    lambda world: messages.Goodbye(),
    lambda world: messages.Ping(),
    lambda world: messages.Pong(),
]
FROM_ROGUE_WORKERS: list[Callable[[World, bytes], messages.FromWorker]] = [
    rogue_register,
    lambda world, peer: messages.Register(messages.PROTOCOL, INFO),
    rogue_done,
    due_done,
    due_done,
    due_done,
    lambda world, peer: messages.Late(world.pick.one(NUMBERS), messages.Answer(world.pick.one(NUMBERS), 7)),
    lambda world, peer: messages.Hello(messages.PROTOCOL, 1, ""),
    lambda world, peer: messages.Ping(),
    lambda world, peer: messages.Pong(),
]
HAPPENS: list[Callable[[World], None]] = [
    *[World.client_runs, World.client_posts, World.worker_works, World.worker_posts] * 3,
    *[World.rogue_client, World.rogue_worker] * 3,
    World.join_client,
    World.join_rogue_client,
    World.join_worker,
    World.join_rogue_worker,
    World.client_leaves,
    World.worker_dies,
    World.expect,
    World.malformed,
    World.rogue_fails,
]


def play(history: bytes) -> int:
    """Play a history; returns the number of steps that the dispatcher took."""
    world = World(history)
    while not world.pick.over:
        world.pick.one(HAPPENS)(world)
    world.settle()
    return world.steps


def play_many(count: int, number: int) -> tuple[int, int]:
    """Play histories from Hypothesis, which shrinks a failing one; returns their number and their steps."""
    played = steps = 0

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(**LENGTHS))
    def one(history: bytes) -> None:
        nonlocal played, steps
        steps += play(history)
        played += 1

    one()
    return played, steps


if __name__ == "__main__":
    began = time.monotonic()
    wanted, number = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    played, steps = play_many(wanted, number)
    print(f"{played} histories, {steps} steps, 0 raised, in {time.monotonic() - began:.0f} s")
