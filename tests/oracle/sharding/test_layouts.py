"""Four layouts of the example, three steps each; all of them by `python -m tests.oracle.sharding.layouts`."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
import torch

from gt.planning import parameters, storages
from gt.wire import instructions as wire
from tests.oracle.sharding.layouts import CASES, LAYERS, Case, run, too_far
from tests.oracle.sharding.systems import sharded
from tests.oracle.sharding.training import Trained, apart

STEPS = 3
COLLECTIVES = {
    "dp2": {"AllReduce dp": 2},  # the gradients, the loss
    "fsdp2": {
        "AllGather dp": 1,
        "ReduceScatter dp": 1,
        "AllReduce dp": 2,
    },  # the bucket stays; the norm to clip by, the loss
    "tp2": {"AllReduce tp": 4 * LAYERS + 2},  # two a layer and direction; the norms' gradients, the norm to clip by
    "dp2xtp2": {"AllReduce dp": 2, "AllReduce tp": 4 * LAYERS + 2},
}


@functools.cache
def one_worker(case: Case) -> Trained:
    return run(None, case, STEPS)


@pytest.mark.parametrize("layout", COLLECTIVES)
def test_training_is_that_of_one_worker_with_few_collectives(layout: str) -> None:
    case = CASES["fused"]
    got = run(layout, case, STEPS)
    assert not too_far(found := apart(got, one_worker(case)), case), f"{found} {found.worst}"
    assert got.gathered == {}
    assert got.collectives[-1] == Counter(COLLECTIVES[layout])


def test_micro_batches_are_reduced_once() -> None:
    case = CASES["accumulated"]
    got = run("dp2", case, STEPS)
    assert not too_far(found := apart(got, one_worker(case)), case), f"{found} {found.worst}"
    assert got.collectives[-1] == Counter({"AllReduce dp": 2})


def test_gradients_and_parameters_travel_in_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages, "BUCKET_BYTES", 256 << 10)
    got = run("fsdp2", CASES["fused"], 3)
    found, size_bytes = got.collectives[-1], sum(p.nbytes for p in got.parameters.values())
    most = size_bytes // (storages.BUCKET_BYTES // parameters.WHOLE_AT_ONCE) + 1
    assert 2 < found["ReduceScatter dp"] <= most
    assert found["ReduceScatter dp"] < found["AllGather dp"] <= 2 * most  # forth and back


def test_the_size_of_slices_changes_no_bit() -> None:
    case = CASES["fused"]
    expected = run("fsdp2", case, 2)
    for size in (1, 7):
        found = run("fsdp2", case, 2, size)
        assert found.losses == expected.losses
        assert all(torch.equal(found.parameters[name], own) for name, own in expected.parameters.items())


def test_a_session_is_told_what_the_one_before_it_was_told() -> None:
    for _ in range(2):
        with sharded('{mesh: {dp: 2}, params: {"**": {dp: fully_shard}}, inputs: {"*": {dp: shard(0)}}}') as running:
            model = torch.nn.Linear(4, 4, device="remote")
            model(torch.zeros(4, 4, device="remote")).sum().backward()
            assert running.collectives() == Counter({"AllGather dp": 1})
            assert running.planner is not None
            assert len(running.planner.parameters.pins) == 2


def test_an_optimizers_state_that_was_loaded_whole_is_sharded_with_its_parameter() -> None:
    with sharded('{mesh: {dp: 2}, params: {"**": {dp: fully_shard}}, inputs: {"*": {dp: shard(0)}}}') as running:
        model = torch.nn.Linear(4, 4, device="remote")
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):
            model(torch.ones(4, 4, device="remote")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            state = {n: {k: v.cpu() for k, v in s.items()} for n, s in optimizer.state_dict()["state"].items()}
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            running.collectives()
        model(torch.ones(4, 4, device="remote")).sum().backward()
        optimizer.step()
        assert running.collectives() == Counter({"AllGather dp": 1, "ReduceScatter dp": 1})


def test_what_a_call_writes_besides_its_result_is_read_anew() -> None:
    with sharded('{mesh: {dp: 2}, inputs: {"*": {dp: shard(0)}}}') as running:
        ones = torch.nn.Identity()(torch.ones(4, 8).to("remote"))
        noise = torch.full((4, 8), 2.0, device="remote")
        assert torch.equal((ones * noise).cpu(), noise.cpu())
        assert any(isinstance(item, wire.Slice) for item in running.instructions())
        torch._C._nn.rrelu_with_noise(torch.full((4, 8), -1.0, device="remote"), noise, 0.1, 0.3, True)
        assert not (noise == 2).any()
        assert torch.equal((ones * noise).cpu(), noise.cpu())
