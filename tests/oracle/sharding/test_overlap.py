"""Collectives that hide behind the computation: where they stand in the stream, and that they change no number."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gt.planning import storages
from gt.wire import instructions as wire
from tests.oracle.sharding.systems import Running, sharded

SIZE, LAYERS = 32, 4
LAYER_BYTES = 4 * SIZE * SIZE
DATA_PARALLEL = 'mesh: {dp: 2}\ninputs: {"*": {dp: shard(0)}}'
FULLY_SHARDED = 'mesh: {dp: 2}\nparams: {"**": {dp: fully_shard}}\ninputs: {"*": {dp: shard(0)}}'


class Training:
    """A model of some layers, whose gradients fill a bucket for every two of them, and its twin on the CPU."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.local = torch.nn.Sequential(*(torch.nn.Linear(SIZE, SIZE, bias=False) for _ in range(LAYERS)))
        self.remote = torch.nn.Sequential(*(torch.nn.Linear(SIZE, SIZE, bias=False) for _ in range(LAYERS)))
        self.remote.load_state_dict(self.local.state_dict())
        self.remote.to("remote")
        self.optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.local, self.remote)]

    def backward(self, times: int = 1) -> list[wire.Instruction]:
        """Forward and backward passes on both sides; returns what the workers were told of the last."""
        for number in range(times):
            inputs = torch.randn(8, SIZE, generator=torch.Generator().manual_seed(number))
            self.local(inputs).square().mean().backward()
            self.running.instructions()
            self.remote(inputs.to("remote")).square().mean().backward()
        return self.running.instructions()

    def step(self) -> list[wire.Instruction]:
        """The optimizers' steps; returns what the workers were told. The results are compared."""
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        told = self.running.instructions()
        for own, expected in zip(self.remote.parameters(), self.local.parameters(), strict=True):
            torch.testing.assert_close(own.cpu(), expected)
        return told


@pytest.fixture
def training(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Training]:
    monkeypatch.setattr(storages, "BUCKET_BYTES", 2 * LAYER_BYTES)
    torch.manual_seed(0)
    with sharded(request.param) as running:
        yield Training(running)


def position(told: list[Any], kind: type) -> list[int]:
    return [at for at, item in enumerate(told) if type(item) is kind]


@pytest.mark.parametrize("training", [DATA_PARALLEL], indirect=True)
def test_gradients_are_reduced_while_others_are_computed(training: Training) -> None:
    assert position(training.backward(), wire.AllReduce) == []  # whether a program accumulates shows in the first step
    assert len(position(training.step(), wire.AllReduce)) == 2
    for _ in range(2):
        told = training.backward()
        reduced, computed = position(told, wire.AllReduce), position(told, wire.Op)
        assert len(reduced) == 2
        assert reduced[0] < computed[-1]
        assert position(training.step(), wire.AllReduce) == []


@pytest.mark.parametrize("training", [DATA_PARALLEL], indirect=True)
def test_gradients_that_accumulate_are_reduced_once(training: Training) -> None:
    for _ in range(3):
        assert position(training.backward(times=2), wire.AllReduce) == []
        assert len(position(training.step(), wire.AllReduce)) == 2


@pytest.mark.parametrize("training", [DATA_PARALLEL], indirect=True)
def test_a_program_may_begin_and_end_to_accumulate(training: Training) -> None:
    counts = []
    for times in (1, 1, 2, 2, 1, 1):
        before = position(training.backward(times), wire.AllReduce)
        counts.append((bool(before), len(position(training.step(), wire.AllReduce))))
    assert counts == [(False, 2), (True, 0), (True, 0), (False, 2), (False, 2), (True, 0)]


@pytest.mark.parametrize("training", [FULLY_SHARDED], indirect=True)
def test_parameters_are_gathered_ahead_of_their_use(training: Training) -> None:
    """Once the order of use is known, a bucket is gathered when the one before it is in use, and not when it is needed."""
    for step in range(6):
        told = training.backward()
        gathers = position(told, wire.AllGather)
        if step > 3:
            assert len(gathers) == 2 * LAYERS - 2  # two layers are still there when the backward pass begins
            assert [is_needed_at_once(told, at) for at in gathers] == [True] + [False] * (len(gathers) - 1)
        training.step()


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("training", [FULLY_SHARDED], indirect=True)
def test_a_model_that_takes_the_place_of_another_is_trained_likewise(training: Training, steps: int) -> None:
    training.remote(torch.ones(8, SIZE, device="remote"))
    for _ in range(steps):
        training.backward()
        training.step()
    running = training.running
    del training.remote, training.optimizers
    gc.collect()
    another = Training(running)
    for step in range(6):
        told = another.backward()
        another.step()
        assert step < 4 or len(position(told, wire.AllGather)) == 2 * LAYERS - 2


def is_needed_at_once(told: list[Any], at: int) -> bool:
    """Whether the next operation uses what is gathered."""
    following = next(item for item in told[at:] if type(item) is wire.Op)
    return any(part.out in following.args for part in told[at].parts)
