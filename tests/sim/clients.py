"""Simulated clients that track independently what the workers should hold."""

from __future__ import annotations

import torch

from gt.fakes import FakeTransport, System
from gt.placement.layout import Sharding
from gt.wire import codec, messages
from gt.wire import instructions as wire
from tests.sim import invariants

SCALAR = wire.Geometry((), (), 0, "int64")
ADD = wire.Define(1, "aten::add.Tensor", [wire.In(0), wire.Number(0)], {}, [SCALAR], [SCALAR])
FULL = wire.Define(2, "aten::full", [[], wire.Number(0)], {"dtype": wire.Dtype("int64")}, [], [SCALAR])


class Client:
    """Speaks the wire protocol; tracks independently what the worker should hold."""

    def __init__(self, system: System, sharding: Sharding | None = None) -> None:
        self.transport: FakeTransport = system.connect()
        self.seq = self.epoch = self.requests = 0
        self.value = 0
        self.next_id = 1
        self.frames: list[list[memoryview]] = []
        self.send(messages.Hello(messages.PROTOCOL, 1, "test", sharding))

    def send(self, message: object) -> None:
        self.transport.send([codec.encode(message)])

    def run(self, items: list[wire.Instruction], frames: list[bytes] | None = None) -> None:
        self.seq += 1
        self.transport.send([codec.encode(messages.Run(self.seq, codec.pack(items), self.epoch)), *(frames or [])])

    def start(self, value: int) -> None:
        self.value = value
        self.run([ADD, FULL, wire.Op(2, 1, (value,), 0)])
        self.next_id = 2

    def add(self, count: int, number: int) -> None:
        items: list[wire.Instruction] = []
        for _ in range(count):
            items += [wire.Op(1, self.next_id, (self.next_id - 1, number), 0), self.next_id - 1]
            self.next_id += 1
        self.value += count * number
        self.run(items)

    def received(self) -> list[messages.ToClient]:
        found = []
        while (frames := self.transport.receive(0.0)) is not None:
            found.append((codec.to_client(frames[0]), frames[1:]))
        self.frames = [f for _, f in found if f]
        return [m for m, _ in found]

    def answers(self) -> list[messages.Answer]:
        return [a for m in self.received() if isinstance(m, messages.Done) for a in m.answers]

    def fetch(self) -> int:
        self.requests += 1
        self.run([wire.Fetch(self.requests, self.next_id - 1, SCALAR)])
        answers = self.answers()
        assert [a.request for a in answers] == [self.requests]
        assert answers[0].failure is None, answers[0].failure
        return int(torch.frombuffer(bytearray(self.frames[-1][0]), dtype=torch.int64).item())


def check(system: System) -> None:
    """Check the invariants that hold after every step."""
    invariants.check(system.dispatcher)
