"""After an error that all workers of a session met alike, what was to be written in place can be used again, as on a CPU.
Where they did not, it stays an error: never a value of which they have different ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.oracle.sharding.systems import Running, sharded
from tests.oracle.test_caught_errors import WRITES

DP2 = 'mesh: {dp: 2}\nparams: {"weight": {dp: shard(0)}}\ninputs: {"*": {dp: shard(0)}}'
DP2_TP2 = 'mesh: {dp: 2, tp: 2}\nparams: {"weight": {tp: shard(0)}}\ninputs: {"*": {dp: shard(0)}}'


@pytest.fixture(params=[DP2, DP2_TP2])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with sharded(request.param) as made:
        yield made


def remote(*values: int) -> torch.Tensor:
    return torch.tensor(values).to("remote")


def failing(like: torch.Tensor) -> torch.Tensor:
    """As `like`; no worker can make it."""
    return torch.ones_like(like).index_select(0, remote(*[99] * len(like)))


def fails(written: torch.Tensor, times: int = 2) -> None:
    for _ in range(times):
        with pytest.raises(IndexError):
            written.sum().item()


@pytest.mark.parametrize("name", WRITES)
def test_what_each_worker_has_all_of_is_as_on_a_cpu(running: Running, name: str) -> None:
    found = []
    for device in ("cpu", "remote"):
        x, index = torch.arange(4.0).to(device), torch.tensor([1, 8]).to(device)
        for _ in range(2):
            with pytest.raises((IndexError, RuntimeError)):
                (WRITES[name](x, index), x.add_(1), x.sum().item())
            x[0] += 1
        found.append((x.tolist(), x.sum().item()))
    assert found[0] == found[1]


@pytest.fixture
def layer(running: Running) -> torch.nn.Linear:
    """Its weight is sharded."""
    made = torch.nn.Linear(4, 8, bias=False).to("remote")
    made(torch.ones(4, 4, device="remote")).sum().item()
    return made


def test_what_was_not_begun_leaves_parts_as_they_were(layer: torch.nn.Linear) -> None:
    weight = layer.weight.detach()
    before = weight.cpu()
    weight.add_(failing(weight))
    seen = weight * 1
    fails(seen, times=1)
    assert torch.equal(weight.cpu(), before)
    assert torch.equal((weight + 1).cpu(), before + 1)
    fails(seen)


def test_an_optimizer_that_meets_what_failed_can_go_on(layer: torch.nn.Linear) -> None:
    optimizer = torch.optim.AdamW(layer.parameters(), weight_decay=0.0)
    layer(torch.ones(4, 4, device="remote")).sum().backward()
    optimizer.step()
    before = layer.weight.detach().cpu()
    layer.weight.grad = failing(layer.weight.detach())
    optimizer.step()
    fails(layer.weight, times=1)
    assert torch.equal(layer.weight.detach().cpu(), before)
    optimizer.zero_grad()
    layer(torch.ones(4, 4, device="remote")).sum().backward()
    optimizer.step()
    assert torch.isfinite(layer.weight).all()


def test_parts_that_a_failed_call_may_have_written_stay_an_error(layer: torch.nn.Linear) -> None:
    layer.weight.detach().index_fill_(1, remote(0, 99), 5.0)
    fails(layer.weight)


MOVES: dict[str, Callable[[torch.Tensor], Any]] = {
    "an upload": lambda weight: weight.copy_(torch.zeros(8, 4)),
    "a query that writes": lambda weight: torch.masked_select(
        torch.ones(8, 4, device="remote"), torch.ones(8, 4, dtype=torch.bool, device="remote"), out=weight.view(-1)
    ),
}


@pytest.mark.parametrize("move", MOVES)
def test_parts_that_were_to_be_moved_before_anybody_was_told_stay_an_error(layer: torch.nn.Linear, move: str) -> None:
    weight = layer.weight.detach()
    weight.add_(failing(weight))
    try:
        MOVES[move](weight)
    except IndexError:
        pass
    fails(weight)


REFUSED: dict[str, Callable[[torch.Tensor], Any]] = {
    "at once": lambda weight: weight.index_copy_(0, remote(0, 1), torch.ones(2, 3, device="remote")),
    "once it has begun": lambda weight: torch.masked_select(
        torch.ones(32, device="remote"), torch.ones(3, dtype=torch.bool, device="remote"), out=weight.view(-1)
    ),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_parts_that_a_refused_call_was_to_write_are_as_they_were(layer: torch.nn.Linear, refused: str) -> None:
    weight = layer.weight.detach()
    before = weight.cpu()
    with pytest.raises((IndexError, RuntimeError)):
        REFUSED[refused](weight)
    assert torch.equal(weight.cpu(), before)
    assert torch.equal((weight + 1).cpu(), before + 1)


def test_a_parameter_that_a_query_has_written_goes_back_to_where_it_belongs(
    layer: torch.nn.Linear, running: Running
) -> None:
    mask = torch.ones(32, dtype=torch.bool, device="remote")
    torch.masked_select(torch.arange(32.0, device="remote"), mask, out=layer.weight.detach().view(-1))
    assert layer.weight.flatten().tolist() == [float(n) for n in range(32)]
    running.instructions()
    planner = running.planner
    assert planner is not None
    states = [planner.storages.state(planner.storages.by_id[id]) for id in planner.parameters.pins]
    assert all(state.placed != planner.storages.whole for state in states)


def test_what_one_worker_has_failed_to_write_stays_an_error(running: Running) -> None:
    net = torch.nn.Sequential(torch.nn.Embedding(10, 4)).to("remote")
    x = torch.zeros(4, device="remote")
    x.add_(net(remote(0, 1, 2, 99)).detach().sum(0))  # the wrong index is in the part of the last worker
    fails(x)


def test_another_storage_that_one_worker_lacks_does_not_keep_one_that_all_have_from_being_used(running: Running) -> None:
    net = torch.nn.Sequential(torch.nn.Embedding(10, 4)).to("remote")
    x, y = torch.zeros(4, device="remote"), torch.zeros(4, device="remote")
    x.add_(net(remote(0, 1, 2, 99)).detach().sum(0))
    y.index_fill_(0, remote(1, 99), 5.0)
    fails(x)
    fails(y, times=1)
    assert y.tolist() == [0.0, 5.0, 0.0, 0.0]
    fails(x)
