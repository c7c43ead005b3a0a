"""What each worker of a fully sharded program holds: when its weights come, in a step, and when they are saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import gt
from gt.planning import storages
from gt.wire import instructions as wire
from tests.oracle.sharding.systems import Running, sharded

HIDDEN, LAYERS = 256, 16
LARGEST_BYTES = 4 * HIDDEN * HIDDEN
BUCKET_BYTES = 4 * LARGEST_BYTES
MODEL_BYTES = LAYERS * LARGEST_BYTES
ROWS = 8
ACTIVATION_BYTES = 16 * 4 * ROWS * HIDDEN * LAYERS
"""More than the activations of a step."""
CONFIG = transformers.LlamaConfig(
    vocab_size=256, hidden_size=256, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4
)


@pytest.fixture(params=[2, 4])
def running(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A fully sharded system of 2 or 4 workers, in which a bucket is much smaller than the model."""
    monkeypatch.setattr(storages, "BUCKET_BYTES", BUCKET_BYTES)
    text = f"mesh: {{dp: {request.param}}}\nparams: {{'**': {{dp: fully_shard}}}}\ninputs: {{'*': {{dp: shard(0)}}}}"
    with sharded(text) as system:
        yield system


def held(running: Running, peak: bool = False) -> list[int]:
    """The bytes that each worker holds now, or with `peak` at most since this was asked last."""
    running.collectives()
    found = []
    for worker in running.system.workers.values():
        (session,) = worker.host.sessions.values()
        usage = session.memory.usage
        found.append(usage.peak_bytes(reset=True) if peak else usage.bytes())
    return found


def share(running: Running, size_bytes: int) -> float:
    """What a worker may hold of so many bytes."""
    return size_bytes / len(running.system.workers) * 1.05


def model(device: str) -> torch.nn.Sequential:
    layers = [torch.nn.Linear(HIDDEN, HIDDEN, bias=False, device=device) for _ in range(LAYERS)]
    return torch.nn.Sequential(*layers)


def made_on_the_workers(path: Path) -> torch.nn.Module:
    return model("remote")


def moved_there(path: Path) -> torch.nn.Module:
    return model("cpu").to("remote")


def loaded(path: Path) -> torch.nn.Module:
    with torch.device("meta"):
        net = model("meta")
    net.load_state_dict(gt.files.load_safetensors(path), assign=True)
    return net


@pytest.mark.parametrize(("make", "tensors"), [(made_on_the_workers, 2), (moved_there, 1), (loaded, 1)])
def test_no_worker_ever_holds_the_whole_model(running: Running, tmp_path: Path, make: Any, tensors: int) -> None:
    """While it comes, at most one tensor is whole; where it is initialised on the workers, the numbers drawn for it too."""
    path, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    torch.manual_seed(0)
    local = model("cpu")
    save_file(local.state_dict(), path)
    held(running, peak=True)
    torch.manual_seed(0)
    net = make(path)
    assert max(held(running, peak=True)) <= share(running, MODEL_BYTES) + tensors * LARGEST_BYTES
    assert max(held(running)) <= share(running, MODEL_BYTES)

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    for step in range(3):
        net(torch.ones(ROWS, HIDDEN, device="remote")).square().mean().backward()
        optimizer.step()
        assert max(held(running)) <= share(running, 4 * MODEL_BYTES), step
    assert max(held(running, peak=True)) <= share(running, 4 * MODEL_BYTES) + BUCKET_BYTES + ACTIVATION_BYTES

    gt.files.save_safetensors(net.state_dict(), out)
    assert max(held(running, peak=True)) <= share(running, 4 * MODEL_BYTES) + LARGEST_BYTES
    torch.save(net.state_dict(), tmp_path / "model.pt")
    assert max(held(running, peak=True)) <= share(running, 4 * MODEL_BYTES) + LARGEST_BYTES
    assert all(net.state_dict()[name].cpu().equal(tensor.cpu()) for name, tensor in gt.files.load_safetensors(out).items())


def test_save_pretrained_leaves_the_model_where_it_is(running: Running, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = transformers.LlamaForCausalLM(CONFIG).to("remote")
    held(running, peak=True)
    running.instructions()
    net.save_pretrained(tmp_path)
    assert not [i for i in running.instructions() if isinstance(i, wire.Fetch)]
    assert max(held(running, peak=True)) <= share(running, net.num_parameters() * 4) + LARGEST_BYTES
    torch.manual_seed(0)
    there, here = transformers.LlamaForCausalLM.from_pretrained(tmp_path), transformers.LlamaForCausalLM(CONFIG)
    assert all(there.state_dict()[name].equal(tensor) for name, tensor in here.state_dict().items())


LAYOUTS = [
    "{mesh: {dp: 2}, params: {'**': {dp: fully_shard}}}",
    "{mesh: {dp: 2, tp: 2}, params: {'**.q_proj.weight': {tp: shard(0), dp: fully_shard(1)}, '**': {dp: fully_shard}}}",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_have_the_bytes_that_one_worker_writes(layout: str, tmp_path: Path) -> None:
    def written(text: str | None, folder: Path) -> dict[str, bytes]:
        folder.mkdir()
        with sharded(text):
            torch.manual_seed(0)
            net = transformers.LlamaForCausalLM(CONFIG).to("remote")
            optimizer = torch.optim.AdamW(net.parameters(), fused=True)
            net(input_ids=torch.zeros(2, 4, dtype=torch.int64, device="remote"))
            for parameter in net.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            net.save_pretrained(folder / "pretrained", max_shard_size="1MB")
            gt.files.save_safetensors(net.state_dict(), folder / "state.safetensors")
            torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, folder / "state.pt")
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    wanted, got = written(None, tmp_path / "one"), written(layout, tmp_path / "several")
    assert len(wanted) > 5
    assert [name for name, content in wanted.items() if got.pop(name) != content] == []
    assert got == {}
