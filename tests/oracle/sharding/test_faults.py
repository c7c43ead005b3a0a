"""What fails on one worker of several is that error at the client: never another value, never a wait without end."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import gt
from gt.errors import PeerError
from gt.worker import files
from gt.worker.session import WorkerSession
from tests.oracle.sharding.systems import Running, sharded

DP2 = 'mesh: {dp: 2}\nparams: {"**": {dp: replicate}}\ninputs: {"*": {dp: shard(0)}}'
DP2_TP2 = 'mesh: {dp: 2, tp: 2}\nparams: {"0.weight": {tp: shard(1)}}\ninputs: {"*": {dp: shard(0)}}'
RIGHT, WRONG = [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 99]
"""The wrong index is in the part of the last worker."""


@pytest.fixture(params=[DP2, DP2_TP2])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with sharded(request.param) as made:
        yield made


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 4)).to("remote")


def ids(values: list[int]) -> torch.Tensor:
    return torch.tensor(values).to("remote")


def sessions(running: Running) -> list[WorkerSession]:
    (number,) = running.system.dispatcher.state.sessions
    return [worker.host.sessions[number] for worker in running.system.workers.values()]


def states(running: Running) -> list[bytes]:
    """The generators of the session's workers."""
    gt.ones(1, device="remote").sum().item()
    (number,) = running.system.dispatcher.state.sessions
    return [w.host.runner.random.state(number).numpy().tobytes() for w in running.system.workers.values()]


READS: dict[str, Callable[[torch.Tensor], Any]] = {
    "reduced": lambda made: made.sum().item(),
    "not finite": lambda made: (made.sum() * 0 + 1).item(),
    "gathered": lambda made: made.cpu(),
    "compared": lambda made: bool((made > 0).any()),
    "queried": lambda made: made.nonzero().cpu(),
    "indexed": lambda made: made[0].sum().item(),
}


@pytest.mark.parametrize("read", READS)
def test_an_index_out_of_range_on_one_worker(running: Running, read: str) -> None:
    net = model()
    before = net(ids(RIGHT)).sum().item()
    with pytest.raises(IndexError, match=r"out of range[\s\S]*issued at .*test_faults"):
        READS[read](net(ids(WRONG)))
    assert net(ids(RIGHT)).sum().item() == before


def test_gradients_of_a_step_that_failed_on_one_worker_are_that_error(running: Running) -> None:
    net = model()
    net(ids(RIGHT)).sum().backward()
    net.zero_grad()
    net(ids(WRONG)).sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        with pytest.raises(IndexError):
            parameter.grad.sum().item()
    net.zero_grad()
    net(ids(RIGHT)).sum().backward()
    assert all(torch.isfinite(p.grad.cpu()).all() for p in net.parameters())  # type: ignore[union-attr]


def test_draws_after_an_error_on_one_worker_are_the_same_everywhere(running: Running) -> None:
    net = model()
    with pytest.raises(IndexError):
        torch.nn.functional.dropout(net(ids(WRONG))).sum().item()
    whole = torch.nn.functional.dropout(torch.ones(64, device="remote")).cpu()
    assert len(set(states(running))) == 1
    assert set(whole.tolist()) == {0.0, 2.0}


def test_draws_after_an_error_that_nobody_has_seen_are_that_error_and_then_right(running: Running) -> None:
    net = model()
    spoiled = torch.bernoulli(net(ids(WRONG)).sigmoid())  # has no rule: the last worker does not draw
    with pytest.raises(IndexError):
        torch.nn.functional.dropout(torch.ones(64, device="remote")).sum().item()
    assert torch.nn.functional.dropout(torch.ones(64, device="remote")).cpu().sum() > 0
    assert len(set(states(running))) == 1
    del spoiled


def test_draws_that_do_not_depend_on_what_failed_are_right(running: Running) -> None:
    spoiled = torch.nn.functional.dropout(model()(ids(WRONG)))
    drawn = torch.nn.functional.dropout(torch.ones(64, device="remote")).cpu()
    assert len(set(states(running))) == 1
    assert set(drawn.tolist()) == {0.0, 2.0}
    del spoiled


def test_a_seed_ends_what_an_error_did_to_the_generators(running: Running) -> None:
    spoiled = torch.nn.functional.dropout(model()(ids(WRONG)))
    torch.manual_seed(3)
    drawn = torch.nn.functional.dropout(torch.ones(64, device="remote")).cpu()
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.nn.functional.dropout(torch.ones(64)))
    del spoiled


def test_a_file_is_written_once_and_not_at_all_if_a_worker_lacks_a_tensor(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    finish = files.Writer.finish

    def counted(writer: files.Writer) -> None:
        finish(writer)
        written.append(writer._target.name)

    monkeypatch.setattr(files.Writer, "finish", counted)
    net = model()
    right, wrong = str(tmp_path / "right.safetensors"), str(tmp_path / "wrong.safetensors")
    with pytest.raises(IndexError):
        gt.files.save_safetensors({"a": net(ids(RIGHT)), "b": net(ids(WRONG))}, wrong)
    gt.files.save_safetensors({"a": net(ids(RIGHT)), "w": net[0].weight}, right)  # type: ignore[index]
    assert written == ["right.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["right.safetensors"]
    again = gt.files.load_safetensors(right)
    assert torch.equal(again["w"].cpu(), net[0].weight.detach().cpu())  # type: ignore[index]


def test_a_file_that_one_worker_may_not_read(running: Running, tmp_path: Path) -> None:
    path = str(tmp_path / "x.safetensors")
    gt.files.save_safetensors({"a": torch.ones(4, device="remote")}, path)
    last = list(running.system.workers.values())[-1]
    last.host.data_dirs = ("/nowhere",)
    with pytest.raises(PermissionError, match="not in a folder that this service was given"):
        gt.files.load_safetensors(path)["a"].sum().item()


def last_fails(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the last worker has no memory left for any call."""

    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory left")

    last = list(running.system.workers.values())[-1]
    monkeypatch.setattr(last.host.runner, "run", fails)


@pytest.mark.parametrize("poisoned", [False, True])
def test_what_a_query_wrote_on_all_workers_but_one_is_an_error(
    running: Running, monkeypatch: pytest.MonkeyPatch, poisoned: bool
) -> None:
    kept, out, taken = (torch.arange(4.0).to("remote") for _ in range(3))
    (kept + out + taken).sum().item()
    with monkeypatch.context() as patch:
        last_fails(running, patch)
        if poisoned:
            taken += 0.5  # not run on the last worker, and nobody has been told
        with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
            torch.masked_select(taken, kept > 1, out=out)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            (out.sum() + kept.sum()).item()
    assert kept.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_what_a_query_was_to_write_after_a_check_failed_on_one_worker_is_an_error(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, right = torch.arange(4.0).to("remote"), torch.tensor(True).to("remote")
    (out.sum() + right).item()
    with monkeypatch.context() as patch:
        last_fails(running, patch)
        torch._assert_async(right)  # fails there by itself: no value depends on it
        running.instructions()
    with pytest.raises(torch.OutOfMemoryError):
        torch.masked_select(torch.ones(4, device="remote"), torch.ones(4, device="remote") > 0, out=out)
    with pytest.raises(torch.OutOfMemoryError):
        out.sum().item()


def test_results_that_some_workers_have_of_a_failed_query_are_freed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.arange(4.0).to("remote")
    running.instructions()
    before = [set(session.memory.storages) for session in sessions(running)]
    with monkeypatch.context() as patch:
        last_fails(running, patch)
        with pytest.raises(torch.OutOfMemoryError):
            x.nonzero()
    x.sum().item()
    gc.collect()
    running.instructions()
    assert [set(session.memory.storages) for session in sessions(running)] == before


def test_numbers_drawn_after_one_worker_could_not_set_its_generator_are_an_error(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no state")

    torch.rand(2, device="remote").sum().item()
    state = torch.get_rng_state()
    running.instructions()
    last = list(running.system.workers.values())[-1]
    with monkeypatch.context() as patch:
        patch.setattr(last.host.runner.random, "set_state", fails)
        torch.set_rng_state(state)
        with pytest.raises(RuntimeError, match="no state"):
            torch.rand(4, device="remote").sum().item()
    torch.rand(4, device="remote").sum().item()


def test_a_collective_that_one_worker_cannot_begin_is_its_error_and_then_nobody_waits(running: Running) -> None:
    net = model()
    net(ids(RIGHT)).sum().item()
    group: Any = sessions(running)[-1].group

    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory left for the bucket")

    group.all_reduce = fails
    spoiled = net(ids(RIGHT)).sum()
    with pytest.raises(torch.OutOfMemoryError, match="no memory left for the bucket"):
        spoiled.item()
    with pytest.raises((PeerError, torch.OutOfMemoryError)):
        net(ids(RIGHT)).sum().item()
