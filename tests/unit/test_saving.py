"""Files that are saved in the background: the values of the call, errors that are never lost, nothing half written."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gt
from gt.client.session.process import process
from gt.client.session.savings import Savings
from gt.errors import WorkerLostError
from gt.worker import files
from tests.oracle.sharding.systems import sharded

pytestmark = pytest.mark.timeout(60)
FSDP2 = 'mesh: {dp: 2}\nparams: {"**": {dp: fully_shard}}\ninputs: {"*": {dp: shard(0)}}'


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Files are not finished until this is set."""
    may = threading.Event()
    finish = files.Writer.finish

    def waits(writer: files.Writer) -> None:
        assert may.wait(30)
        finish(writer)

    monkeypatch.setattr(files.Writer, "finish", waits)
    yield may
    may.set()


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full."""

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 4).to("remote")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    step(model, optimizer)
    return model, optimizer


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss = model(torch.ones(4, 8).to("remote")).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@pytest.mark.parametrize("sharding", [None, FSDP2])
def test_the_values_are_those_of_the_call_while_training_goes_on(
    sharding: str | None, tmp_path: Path, writes: threading.Event
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"before")
    with sharded(sharding):
        model, optimizer = trained()
        saved = {**model.state_dict(), "state": torch.get_rng_state()}  # the last one is in this process
        expected = {name: tensor.detach().cpu().clone() for name, tensor in saved.items()}
        saving = gt.files.save_safetensors(saved, path, {"format": "pt"}, background=True)
        step(model, optimizer)
        assert (saving.done(), path.read_bytes()) == (False, b"before")
        with pytest.raises(TimeoutError, match="still being written"):
            saving.wait(0)
        writes.set()
        saving.wait()
        assert saving.done()
        found = load_file(path)
        assert {name: torch.equal(found[name], value) for name, value in expected.items()} == dict.fromkeys(expected, True)
        assert not torch.equal(model.weight.detach().cpu(), expected["weight"])
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_full_disk_is_the_error_of_the_call_without_background(tmp_path: Path, full: None) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"before")
    with sharded(None):
        tensors = {"x": torch.ones(3, device="remote")}
        with pytest.raises(RuntimeError, match="No space left") as at_once:
            gt.files.save_safetensors(tensors, path)
        saving = gt.files.save_safetensors(tensors, path, background=True)
        for _ in range(2):
            with pytest.raises(RuntimeError) as later:
                saving.wait()
            assert str(later.value) == str(at_once.value)
        with pytest.raises(RuntimeError):
            saving.done()
        assert tensors["x"].sum().item() == 3
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_an_error_that_nobody_asks_for_is_a_warning_at_the_end_of_the_session(tmp_path: Path, full: None) -> None:
    with warnings.catch_warnings(record=True, action="always") as said, sharded(None):
        tensors = {"x": torch.ones(3, device="remote")}
        told = gt.files.save_safetensors(tensors, tmp_path / "told.safetensors", background=True)
        with pytest.raises(RuntimeError):
            told.wait()
        gt.files.save_safetensors(tensors, tmp_path / "untold.safetensors", background=True)
    (only,) = said
    assert only.category is RuntimeWarning
    assert "untold.safetensors: " in str(only.message)
    assert "No space left" in str(only.message)


@pytest.mark.parametrize("sharding", [None, FSDP2])
def test_a_tensor_that_an_error_has_spoiled_is_that_error(sharding: str | None, tmp_path: Path) -> None:
    with sharded(sharding):
        table = torch.nn.Embedding(4, 2).to("remote")
        spoiled = table(torch.tensor([0, 1, 2, 9]).to("remote"))
        saving = gt.files.save_safetensors({"x": spoiled}, tmp_path / "x", background=True)
        with pytest.raises(IndexError, match=r"issued at .*test_saving"):
            saving.wait()
    assert os.listdir(tmp_path) == []


def test_what_can_be_refused_is_refused_at_the_call(tmp_path: Path) -> None:
    with sharded(None):
        with pytest.raises(TypeError, match="complex128"):
            gt.files.save_safetensors({"x": torch.ones(1, dtype=torch.complex128)}, tmp_path / "x", background=True)
        with pytest.raises(FileNotFoundError, match="no such folder"):
            gt.files.save_safetensors({"x": torch.ones(1)}, tmp_path / "nowhere" / "x", background=True)
        with pytest.raises(IsADirectoryError):
            gt.files.save_safetensors({"x": torch.ones(1)}, tmp_path, background=True)


@pytest.mark.parametrize("second_in_background", [True, False])
def test_of_two_files_with_one_path_the_second_stays(
    second_in_background: bool, tmp_path: Path, writes: threading.Event
) -> None:
    path = tmp_path / "x"
    with sharded(None):
        gt.files.save_safetensors({"x": torch.tensor(1)}, path, background=True)
        threading.Timer(0.1, writes.set).start()
        gt.files.save_safetensors({"x": torch.tensor(2)}, path, background=second_in_background).wait()
        assert load_file(path)["x"].item() == 2


def test_the_end_of_a_session_waits_for_its_files(
    tmp_path: Path, writes: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wait = tmp_path / "x", Savings.wait

    def ends(savings: Savings, timeout_s: float, path: Path | None = None) -> None:
        writes.set()
        wait(savings, timeout_s, path)

    monkeypatch.setattr(Savings, "wait", ends)
    with warnings.catch_warnings(), sharded(None):
        warnings.simplefilter("error")
        saving = gt.files.save_safetensors({"x": torch.tensor(1)}, path, background=True)
    assert saving.done()
    assert load_file(path)["x"].item() == 1


def test_an_interrupted_end_closes_the_session_says_so_and_the_worker_still_writes_the_file(
    tmp_path: Path, writes: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(savings: Savings, timeout_s: float, path: Path | None = None) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "x"
    with (
        contextlib.suppress(KeyboardInterrupt),
        warnings.catch_warnings(record=True, action="always") as said,
        sharded(None) as running,
    ):
        gt.files.save_safetensors({"x": torch.tensor(1)}, path, background=True)
        running.system.settle()
        (session,) = running.system.workers[b"worker0"].host.sessions.values()
        monkeypatch.setattr(Savings, "wait", interrupted)
    assert [f"{path}: its session ended before the file was known to be in its place" in str(w.message) for w in said] == [
        True
    ]
    running.system.settle()
    assert process.opened is None
    assert not running.system.workers[b"worker0"].host.sessions
    writes.set()
    assert session.background._thread is not None
    session.background._thread.shutdown(wait=True)
    assert load_file(path)["x"].item() == 1


def test_a_file_under_way_on_a_worker_that_dies_is_that_error(tmp_path: Path, writes: threading.Event) -> None:
    with sharded(None) as running:
        saving = gt.files.save_safetensors({"x": torch.tensor(1)}, tmp_path / "x", background=True)
        assert not saving.done()
        running.system.kill_worker("worker0")
        for _ in range(2):
            with pytest.raises(WorkerLostError):
                saving.wait()


def test_where_the_worker_does_not_see_the_folder_the_client_writes_in_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sharded(None):
        monkeypatch.setattr(gt.files, "_workers_see", lambda path: False)
        tensors = {"x": torch.randn(3, 4, device="remote").t(), "none": torch.empty(0, device="remote")}
        assert gt.files.save_safetensors(tensors, tmp_path / "x", {"a": "b"}, background=True).done()
        found = load_file(tmp_path / "x")
        assert all(torch.equal(found[name], tensor.cpu()) for name, tensor in tensors.items())
    assert os.listdir(tmp_path) == ["x"]
