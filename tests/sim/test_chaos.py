"""Everything at once, seeded: sessions come and go, workers die and join, nonsense arrives; values stay correct."""

from __future__ import annotations

import random

import pytest

from gt.dispatcher import events
from gt.fakes import System
from gt.wire import codec, messages
from gt.wire import instructions as wire
from tests.sim.clients import SCALAR, Client, check
from tests.sim.histories import on_mesh
from tests.sim.test_fuzz import Junk


class Shelled(System):
    """A system that does as the dispatcher's server where `step` raises: who sent what it raised on is sent away."""

    def act(self, event: events.Event) -> None:
        try:
            super().act(event)
        except Exception as error:
            assert isinstance(event, events.FromClientEvent)
            assert self.dispatcher.state.session_of(event.peer).planner is not None  # type: ignore[union-attr]
            super().act(events.Failed(event, str(error)))


class Survivor(Client):
    """A client that starts over when its worker is lost, as a user would."""

    asked = expected = 0

    def ask(self) -> None:
        self.requests += 1
        self.asked, self.expected = self.requests, self.value
        self.run([wire.Fetch(self.requests, self.next_id - 1, SCALAR)])

    def look(self) -> None:
        """Process the messages that have arrived, without letting others run, and compare values."""
        while self.transport.arrived:
            frames = self.transport.arrived.popleft()
            message: messages.ToClient = codec.to_client(frames[0])
            if isinstance(message, messages.SessionLost):
                self.epoch, self.asked = message.epoch, 0
                self.start(self.value + 1)
            elif isinstance(message, messages.Done):
                for answer in message.answers:
                    self.compare(answer, frames[1:])
            else:
                assert isinstance(message, messages.Welcome)

    def compare(self, answer: messages.Answer, frames: list[memoryview]) -> None:
        if answer.request == self.asked:
            assert answer.failure is None, answer.failure
            assert int.from_bytes(frames[answer.frame], "little", signed=True) == self.expected
            self.asked = 0


@pytest.mark.parametrize("seed", range(8))
def test_values_stay_right_whatever_happens_around_them(seed: int) -> None:
    junk = Junk(seed)
    pick = junk.pick
    system = Shelled(workers=3, worker_batch_size=pick.choice([1, 7, 64]))
    clients: list[Survivor] = []
    vandals = [Client(system), Client(system, on_mesh(2))]
    workers = 3
    compared = 0
    for _ in range(400):
        event = pick.random()
        if event < 0.06 and len(clients) < 8:
            clients.append(Survivor(system, pick.choice([None, on_mesh(1), on_mesh(2)])))
            clients[-1].start(pick.randrange(1000))
        elif event < 0.09 and clients:
            clients.pop(pick.randrange(len(clients))).transport.close()
        elif event < 0.11 and len(system.workers) > 2:
            system.kill_worker(pick.choice(sorted(system.workers)).decode())
        elif event < 0.14 and len(system.workers) < 5:
            workers += 1
            system.add_worker(f"worker{workers}")
        elif event < 0.3:
            if system.dispatcher.state.session_of(vandals[1].transport.peer) is None:
                vandals[1] = Client(system, on_mesh(2))
            pick.choice(vandals).run(junk.some(junk.instruction, 6), [bytes(24)])
        elif event < 0.4:
            pick.choice(vandals).transport.send([junk.frame()])
        elif clients:
            client = pick.choice(clients)
            client.look()
            client.add(pick.randrange(1, 30), pick.randrange(10))
            if not client.asked and pick.random() < 0.5:
                client.ask()
                compared += 1
        for _ in range(pick.randrange(8)):
            system.step()
            check(system)
    system.settle()
    for client in clients:
        for _ in range(3):  # a loss, and messages sent before it was known
            client.look()
            system.settle()
        assert client.fetch() == client.value
    check(system)
    assert compared > 30
    held = {number for worker in system.workers.values() for number in worker.host.sessions}
    assert held <= set(system.dispatcher.state.sessions)


def test_the_size_of_a_workers_batches_changes_no_value() -> None:
    results = []
    for size in (1, 10, 512):
        pick, system = random.Random(3), System(worker_batch_size=size)
        client = Client(system)
        client.start(4)
        for _ in range(40):
            client.add(pick.randrange(1, 50), pick.randrange(-5, 5))
        results.append(client.fetch())
        assert results[-1] == client.value
    assert len(set(results)) == 1
