"""Collectives of `torch.distributed` on remote tensors: a group of one gives what a CPU's does, a larger one is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from gt.errors import RefusedError

Collective = Callable[[torch.Tensor], Any]


def _into(count: int, collective: Callable[..., Any]) -> Collective:
    """Results that a collective writes into a list of tensors."""

    def call(x: torch.Tensor) -> list[torch.Tensor]:
        made = [torch.zeros_like(x) for _ in range(count)]
        collective(made, x)
        return made

    return call


def _in_place(collective: Callable[..., Any], **options: Any) -> Collective:
    def call(x: torch.Tensor) -> torch.Tensor:
        collective(x, **options)
        return x

    return call


def _result(collective: Callable[..., Any]) -> Collective:
    def call(x: torch.Tensor) -> torch.Tensor:
        made = torch.zeros_like(x)
        collective(made, x)
        return made

    return call


COLLECTIVES: dict[str, Collective] = {
    "all_reduce": _in_place(distributed.all_reduce),
    "the_mean": _in_place(distributed.all_reduce, op=distributed.ReduceOp.AVG),
    "the_maximum": _in_place(distributed.all_reduce, op=distributed.ReduceOp.MAX),
    "bits": _in_place(distributed.all_reduce, op=distributed.ReduceOp.BAND),
    "reduce": _in_place(distributed.reduce, dst=0),
    "broadcast": _in_place(distributed.broadcast, src=0),
    "all_gather": _into(1, distributed.all_gather),
    "too_many": _into(2, distributed.all_gather),
    "all_gather_into_tensor": _result(distributed.all_gather_into_tensor),
    "reduce_scatter_tensor": _result(distributed.reduce_scatter_tensor),
    "all_to_all_single": _result(distributed.all_to_all_single),
    "gather": lambda x: _into(1, lambda made, x: distributed.gather(x, made))(x),
    "scatter": _result(lambda made, x: distributed.scatter(made, [x])),
    "all_to_all": _into(1, lambda made, x: distributed.all_to_all(made, [x])),
    "reduce_scatter": _result(lambda made, x: distributed.reduce_scatter(made, [x])),
    "objects": lambda x: _objects({"a": x.tolist()}),
    "without_waiting": lambda x: [distributed.all_reduce(x, async_op=True).wait(), x],
}


def _objects(value: Any) -> list[Any]:
    found = [None]
    distributed.all_gather_object(found, value)
    return found


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def _outcome(collective: Collective, x: torch.Tensor) -> Any:
    try:
        found = collective(x)
    except Exception as error:
        return type(error), str(error)
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.tolist(), found)


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int16, torch.bool])
def test_a_group_of_one_gives_what_a_cpus_does(dtype: torch.dtype) -> None:
    x = torch.tensor([0, 1, 3]).to(dtype)
    expected = {name: _outcome(collective, x.clone()) for name, collective in COLLECTIVES.items()}
    assert {name: _outcome(collective, x.to("remote")) for name, collective in COLLECTIVES.items()} == expected


@pytest.mark.usefixtures("alone")
def test_distributed_data_parallel_trains_a_remote_module() -> None:
    def trained(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(device)
        model = nn.parallel.DistributedDataParallel(module)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for step in range(3):
            optimizer.zero_grad()
            model(torch.arange(12.0, device=device).reshape(4, 3) / (step + 1)).square().mean().backward()
            optimizer.step()
        return [value.cpu() for value in model.state_dict().values()]

    for expected, got in zip(trained("cpu"), trained("remote"), strict=True):
        assert torch.equal(got, expected)


@pytest.fixture
def pair() -> Iterator[None]:
    """A group of two processes, of which only this one is there."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("pair")
def test_a_larger_group_is_refused_by_name() -> None:
    for collective in (
        distributed.all_reduce,
        lambda x: distributed.all_gather([x, x], x),
        lambda x: distributed.send(x, 1),
    ):
        with pytest.raises(RefusedError, match="GT_CONFIG"):
            collective(torch.ones(2, device="remote"))
    with pytest.raises(RefusedError, match="GT_CONFIG"):
        nn.parallel.DistributedDataParallel(nn.Linear(2, 2).to("remote"))
