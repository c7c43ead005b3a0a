"""PEFT loads our adapters and we load PEFT's, with equal logits. Skipped without PEFT; `./test --libraries` installs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

peft = pytest.importorskip("peft")
IDS = torch.arange(40).reshape(2, 20)
KINDS = [
    ({}, torch.float32),
    ({"use_rslora": True}, torch.float32),
    ({"target_modules": ["q_proj", "down_proj"]}, torch.float32),
    ({}, torch.bfloat16),
]


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    found = model.eval()(IDS.to(next(model.parameters()).device))
    return getattr(found, "logits", found).cpu()


@pytest.fixture
def theirs(made: Path) -> Callable[..., Any]:
    """Makes PEFT's model with an adapter that adds something."""

    def make(kind: str = "qwen3", dtype: torch.dtype = torch.float32, **config: object) -> Any:
        base = AutoModelForCausalLM.from_pretrained(made / kind, dtype=dtype)
        config = {"r": 4, "lora_alpha": 7, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
        torch.manual_seed(0)
        model = peft.get_peft_model(base, peft.LoraConfig(**config))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        return model

    return make


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
@pytest.mark.parametrize(("config", "dtype"), KINDS)
def test_an_adapter_goes_to_peft_and_back(
    kind: str,
    config: dict[str, object],
    dtype: torch.dtype,
    theirs: Callable[..., Any],
    made: Path,
    tmp_path: Path,
    scripts: ModuleType,
) -> None:
    reference = theirs(kind, dtype, **config)
    reference.save_pretrained(tmp_path / "theirs")
    model = scripts.load_weights.load(made / kind).to(dtype)
    lora = scripts.lora.load_adapter(model, tmp_path / "theirs")
    assert torch.equal(logits(model), logits(reference))
    (tmp_path / "ours").mkdir()
    scripts.lora.save_adapter(model, lora, str(made / kind), tmp_path / "ours")
    base = AutoModelForCausalLM.from_pretrained(made / kind, dtype=dtype)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "ours")
    assert torch.equal(logits(loaded), logits(model))
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours")]
    assert set(weights[0]) == set(weights[1])
    scripts.lora.merge(model)
    merged = logits(loaded.merge_and_unload())
    assert (logits(model) - merged).abs().max() <= (1e-5 if dtype == torch.float32 else 0.02) * merged.abs().max()


def test_a_new_adapter_is_drawn_as_peft_draws_it(theirs: Callable[..., Any], made: Path, scripts: ModuleType) -> None:
    reference = dict(theirs(r=64, target_modules=["q_proj"]).named_parameters())
    model = scripts.load_weights.load(made / "qwen3")
    scripts.lora.add_adapter(model, scripts.lora.Lora(rank=64, targets=("q_proj",)))
    for name, weight in scripts.lora.adapter_weights(model).items():
        other = reference[name.replace(".weight", ".default.weight")]
        assert weight.shape == other.shape
        if "lora_A" in name:
            assert weight.std().item() == pytest.approx(other.std().item(), rel=0.05)


def test_gradients_are_those_of_peft(theirs: Callable[..., Any], made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    reference = theirs()
    reference.save_pretrained(tmp_path)
    model = scripts.load_weights.load(made / "qwen3")
    scripts.lora.load_adapter(model, tmp_path)
    reference.train()(IDS).logits.square().mean().backward()
    model.train()(IDS.to("remote")).square().mean().backward()
    expected = {name: p.grad for name, p in reference.named_parameters() if p.requires_grad}
    for name, weight in scripts.lora.adapter_weights(model).items():
        other = expected.pop(name.replace(".weight", ".default.weight"))
        assert (weight.grad.cpu() - other).norm() <= 1e-5 * other.norm(), name
    assert not expected


def test_every_key_that_peft_writes_by_default_is_understood(
    theirs: Callable[..., Any], tmp_path: Path, scripts: ModuleType
) -> None:
    """And PEFT fills in what we leave out as we do."""
    theirs().save_pretrained(tmp_path)
    lora = scripts.lora.Lora.from_json(tmp_path / "adapter_config.json")
    written = lora.to_json("tiny")
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert set(written) <= set(stored)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))
    read, theirs_read = (
        scripts.lora.Lora.from_json(tmp_path / "adapter_config.json"),
        peft.LoraConfig.from_pretrained(tmp_path),
    )
    assert (read.rank, read.alpha, read.dropout, read.rslora) == (
        theirs_read.r,
        theirs_read.lora_alpha,
        theirs_read.lora_dropout,
        theirs_read.use_rslora,
    )
