"""`torch.distributed.checkpoint` saves and loads remote tensors; plain tensors are in its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint import state_dict as of_model

pytestmark = pytest.mark.filterwarnings("ignore")  # about a program without a process group


def _trained(seed: int, device: str = "remote") -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3, device=device)).sum().backward()
    optimizer.step()
    return model, optimizer


def _same(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(a.cpu(), b.cpu()) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_what_was_saved_is_loaded_onto_the_device_and_onto_a_cpu(tmp_path: Path) -> None:
    model, optimizer = _trained(0)
    saved, saved_of_optimizer = of_model.get_state_dict(model, optimizer)
    checkpoint.save({"model": saved, "optimizer": saved_of_optimizer, "step": 3}, checkpoint_id=tmp_path)
    for device in ("remote", "cpu"):
        other, other_optimizer = _trained(1, device)
        found, found_of_optimizer = of_model.get_state_dict(other, other_optimizer)
        state = {"model": found, "optimizer": found_of_optimizer, "step": 0}
        checkpoint.load(state, checkpoint_id=tmp_path)
        of_model.set_state_dict(other, other_optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        assert state["step"] == 3
        assert _same(model, other)
        assert {p.device.type for p in other.parameters()} == {device}
        moments, expected = other_optimizer.state_dict()["state"], optimizer.state_dict()["state"]
        assert all(torch.equal(moments[i]["exp_avg"].cpu(), expected[i]["exp_avg"].cpu()) for i in expected)


def test_a_file_in_the_background_holds_what_was_there_at_the_call(tmp_path: Path) -> None:
    model, _ = _trained(0)
    model.tied = model[0].weight[:2]  # type: ignore[assignment]
    before = {name: value.cpu() for name, value in model.state_dict().items()}
    saving = checkpoint.async_save({"model": model.state_dict()}, checkpoint_id=tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    saving.result()
    found = {"model": {name: torch.zeros_like(value) for name, value in before.items()}}
    checkpoint.load(found, checkpoint_id=tmp_path)
    assert all(torch.equal(found["model"][name], before[name]) for name in before)


def test_a_state_dict_is_moved_to_the_cpu(tmp_path: Path) -> None:
    model, _ = _trained(0)
    options = of_model.StateDictOptions(full_state_dict=True, cpu_offload=True)
    found = of_model.get_model_state_dict(model, options=options)
    assert {value.device.type for value in found.values()} == {"cpu"}
    assert all(torch.equal(found[name], value.cpu()) for name, value in model.state_dict().items())
