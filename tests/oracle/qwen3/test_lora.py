"""LoRA: names, shapes and configuration of PEFT's files (PEFT itself: tests/oracle/libraries), training and merging."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.oracle.qwen3.conftest import Broken, run
from tests.oracle.qwen3.test_train import run_of
from tests.oracle.qwen3.test_train import trained as steps_of

LAYER = "base_model.model.model.layers.0."
IDS = torch.arange(40).reshape(2, 20)


def trained(
    scripts: ModuleType, folder: Path, dtype: torch.dtype = torch.float32, **changed: object
) -> tuple[object, object]:
    """(model, lora) with an adapter that adds something."""
    model = scripts.load_weights.load(folder).to(dtype)
    lora = scripts.lora.Lora(rank=4, alpha=6, **changed)
    torch.manual_seed(1)
    scripts.lora.add_adapter(model, lora)
    for _, layer in scripts.lora.adapted(model):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.05)
    return model, lora


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(IDS.to(model.lm_head.weight.device)).float().cpu()


@pytest.fixture
def adapter(made: Path, tmp_path: Path, scripts: ModuleType) -> Callable[..., Path]:
    """Makes an adapter's folder, with changes to its configuration or its weights."""

    def make(change: Callable[[dict[str, torch.Tensor]], object] | None = None, **config: object) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir()
        scripts.lora.save_adapter(*trained(scripts, made / "qwen3"), "tiny", folder)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        if change:
            weights = load_file(folder / "adapter_model.safetensors")
            change(weights)
            save_file(weights, folder / "adapter_model.safetensors")
        return folder

    return make


def test_an_adapter_has_the_names_the_shapes_and_the_configuration_of_peft(adapter: Callable[..., Path]) -> None:
    folder = adapter()
    config = json.loads((folder / "adapter_config.json").read_text())
    names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert config == {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "revision": None,
        "inference_mode": True,
        "r": 4, "lora_alpha": 6, "lora_dropout": 0.0, "use_rslora": False, "target_modules": names, "bias": "none",
        "init_lora_weights": True, "modules_to_save": None,
    }  # fmt: skip
    weights = load_file(folder / "adapter_model.safetensors")
    assert len(weights) == 4 * 7 * 2
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    shapes = {name.removeprefix(LAYER): tuple(w.shape) for name, w in weights.items() if name.startswith(LAYER)}
    width, kv_width, hidden, inner = 4 * 48, 2 * 48, 128, 384
    sizes = {
        "self_attn.q_proj": (width, hidden),
        "self_attn.k_proj": (kv_width, hidden),
        "self_attn.v_proj": (kv_width, hidden),
    }
    sizes |= {"self_attn.o_proj": (hidden, width), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden)}
    sizes |= {"mlp.down_proj": (hidden, inner)}
    expected = {f"{name}.lora_A.weight": (4, size[1]) for name, size in sizes.items()}
    assert shapes == expected | {f"{name}.lora_B.weight": (size[0], 4) for name, size in sizes.items()}


def test_a_new_adapter_changes_nothing_and_only_it_is_trained(made: Path, scripts: ModuleType) -> None:
    model = scripts.load_weights.load(made / "qwen3").bfloat16()
    before = logits(model)
    scripts.lora.add_adapter(model, scripts.lora.Lora(rank=8, targets=("q_proj", "layers.1.mlp.up_proj")))
    assert torch.equal(logits(model), before)
    training = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {scripts.lora.PREFIX + name for name in training} == set(scripts.lora.adapter_weights(model))
    assert len(training) == (4 + 1) * 2
    assert {p.dtype for p in training.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    for name, parameter in training.items():  # Kaiming with a = sqrt(5): uniform up to 1 / sqrt(width)
        bound = 1 / math.sqrt(128) if "lora_A" in name else 0
        assert 0.9 * bound <= parameter.abs().max().item() <= bound


@pytest.mark.parametrize("changed", [{}, {"rslora": True}])
def test_the_adapter_is_the_formula_and_merging_is_the_adapter(
    changed: dict[str, bool], made: Path, scripts: ModuleType
) -> None:
    model, _ = trained(scripts, made / "qwen3", **changed)
    layer = model.model.layers[0].mlp.up_proj
    weight, a, b = (x.weight.detach().cpu().double() for x in (layer, layer.lora_A, layer.lora_B))
    exact = weight + 6 / (2 if changed else 4) * b @ a
    with_adapter = logits(model)
    scripts.lora.merge(model)
    assert not list(scripts.lora.adapted(model))
    assert (model.model.layers[0].mlp.up_proj.weight.cpu() - exact).abs().max() <= 1e-6 * exact.abs().max()
    assert (logits(model) - with_adapter).abs().max() <= 1e-5 * with_adapter.abs().max()
    assert (logits(model) - logits(scripts.load_weights.load(made / "qwen3"))).abs().max() > 1e-3


def test_a_bf16_base_keeps_its_bits_until_it_is_merged_and_is_rounded_once(made: Path, scripts: ModuleType) -> None:
    base = scripts.load_weights.load(made / "qwen3").bfloat16().state_dict()
    model, _ = trained(scripts, made / "qwen3", torch.bfloat16)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model(IDS.to("remote")).float().square().mean().backward()
    optimizer.step()
    layer = model.model.layers[0].mlp.up_proj
    assert torch.equal(layer.weight, base["model.layers.0.mlp.up_proj.weight"])
    expected = layer.weight.float() + layer.scale * (layer.lora_B.weight @ layer.lora_A.weight)
    scripts.lora.merge(model)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, expected.bfloat16())
    assert set(model.state_dict()) == set(base)


def test_steps_with_dropout_are_those_of_local_torch_to_the_bit_checkpointed_or_not(made: Path, scripts: ModuleType) -> None:
    found = []
    stored = {name: tensor.cpu() for name, tensor in scripts.load_weights.load(made / "qwen3").state_dict().items()}
    targets = np.random.default_rng(0).integers(0, 1024, IDS.shape)
    for device, checkpointing in (("cpu", False), ("cpu", True), ("remote", True)):
        model = scripts.model.Qwen3(scripts.config.Config.from_json(made / "qwen3" / "config.json"))
        model.load_state_dict(stored)
        model.to(device).checkpointing = checkpointing
        torch.manual_seed(1)
        scripts.lora.add_adapter(model, scripts.lora.Lora(rank=2, dropout=0.5))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(2):
            hidden = model(IDS.to(device), head=False)
            loss = scripts.loss.chunked_cross_entropy(hidden, model.lm_head.weight, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append((loss.item(), [weight.detach().cpu() for weight in scripts.lora.adapter_weights(model).values()]))
    for loss, weights in found[1:]:
        assert loss == found[0][0]
        assert all(torch.equal(one, other) for one, other in zip(weights, found[0][1], strict=True))


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_a_merged_folder_is_one_for_transformers(
    kind: str, made: Path, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, out = tmp_path / "adapter", tmp_path / "merged"
    adapter.mkdir()
    model, lora = trained(scripts, made / kind)
    scripts.lora.save_adapter(model, lora, "tiny", adapter)
    command = ["merge.py", "--model", str(made / kind), "--adapter", str(adapter), "--out"]
    monkeypatch.setattr(sys, "argv", [*command, str(out)])
    assert scripts.merge.main() == 0
    merged, expected = AutoModelForCausalLM.from_pretrained(out), logits(model)
    assert merged.dtype == torch.float32
    with torch.no_grad():
        assert (merged(IDS).logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert {path.name for path in out.iterdir()} == {path.name for path in (made / kind).iterdir()} | {"made_of.json"}
    monkeypatch.setattr(sys, "argv", [*command, str(adapter)])
    with pytest.raises(scripts.problems.UserError, match=r"adapter: holds adapter_config\.json, which no earlier run wrote"):
        scripts.merge.main()


def test_the_script_merges_and_says_what(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    scripts.lora.save_adapter(*trained(scripts, made / "qwen3", targets=("q_proj",)), "tiny", tmp_path)
    base = str(made / "qwen3")
    done = run("merge.py", "--model", base, "--adapter", ".", "--out", "merged", cwd=tmp_path)
    assert done.stdout == "Merged an adapter of rank 4 on q_proj; saved merged\n", done.stderr
    assert done.stderr == f"Warning: the adapter was trained on tiny, and is merged into {base}\n"


def test_saved_and_loaded_an_adapter_is_the_same(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    model, lora = trained(scripts, made / "qwen3", dropout=0.25, targets=("v_proj", "q_proj"), rslora=True)
    scripts.lora.save_adapter(model, lora, "tiny", tmp_path)
    other = scripts.load_weights.load(made / "qwen3")
    assert scripts.lora.load_adapter(other, tmp_path) == scripts.lora.Lora(4, 6, 0.25, True, ("q_proj", "v_proj"))
    assert torch.equal(logits(other.eval()), logits(model.eval()))


def renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda weights: weights.update({LAYER + new: weights.pop(LAYER + old)})


@pytest.mark.parametrize(
    ("change", "config", "said"),
    [
        (None, {"peft_type": "IA3"}, "peft_type is 'IA3'; supported: 'LORA'"),
        (None, {"use_dora": True}, "use_dora is True, which is not supported here"),
        (None, {"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head'], which is not supported here"),
        (None, {"bias": "all"}, "bias is 'all'; supported: 'none'"),
        (None, {"rank_pattern": {"q_proj": 8}}, "rank_pattern is {'q_proj': 8}, which is not supported here"),
        (None, {"layers_to_transform": [0]}, "layers_to_transform is [0], which is not supported here"),
        (None, {"layers_to_transform": 0}, "layers_to_transform is 0, which is not supported here"),
        (None, {"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'; supported: True, False, 'gaussian'"),
        (None, {"of_the_future": 1}, "of_the_future is 1, which is not supported here"),
        (None, {"target_modules": r".*\.q_proj"}, r"target_modules is '.*\\.q_proj', expected a list of names"),
        (None, {"target_modules": ["q_prok"]}, "target 'q_prok' names no layer that can have an adapter (q_proj, k_proj"),
        (None, {"target_modules": ["q_prok"]}, "did you mean 'q_proj'?"),
        (None, {"target_modules": ["lm_head"]}, "target 'lm_head' names no layer that can have an adapter"),
        (None, {"target_modules": ["embed_tokens"]}, "target 'embed_tokens' names no layer"),
        (None, {"target_modules": ["q_proj"]}, "mlp.down_proj.lora_A.weight belongs to no target of adapter_config.json ("),
        (None, {"r": 8}, "down_proj.lora_A.weight has shape [4, 384]; the rank and the base ask for [8, 384]"),
        (None, {"r": 0}, "r is 0, expected a positive int"),
        (None, {"lora_alpha": "6"}, "lora_alpha is '6', expected a positive number"),
        (None, {"lora_dropout": 1.0}, "lora_dropout is 1.0, expected a number from 0 to below 1"),
        (None, {"use_rslora": 1}, "use_rslora is 1, expected a bool"),
        (lambda w: w.update(extra=torch.ones(1)), {}, "extra belongs to no target"),
        (lambda w: w.pop(f"{LAYER}mlp.up_proj.lora_B.weight"), {}, "mlp.up_proj.lora_B.weight is missing (1 tensor"),
        (renamed("mlp.up_proj.lora_A.weight", "mlp.up_prok.lora_A.weight"), {}, "mlp.up_prok.lora_A.weight belongs to no"),
        (lambda w: w.update({name: x.double() for name, x in w.items()}), {}, "has dtype F64, expected F32, BF16, F16"),
    ],
)  # fmt: skip
def test_an_adapter_that_would_not_be_what_it_was_trained_as_is_refused_by_name(
    change: Callable[..., object] | None,
    config: dict[str, object],
    said: str,
    adapter: Callable[..., Path],
    made: Path,
    scripts: ModuleType,
) -> None:
    folder = adapter(change, **config)
    with pytest.raises(scripts.problems.UserError) as caught:
        scripts.lora.load_adapter(scripts.load_weights.load(made / "qwen3"), folder)
    assert str(caught.value).startswith(str(folder / "adapter_"))
    assert said in str(caught.value)


def test_a_base_of_several_dtypes_is_held_in_the_one_that_has_them_all(
    made: Path, broken: Broken, tmp_path: Path, scripts: ModuleType
) -> None:
    def some_in_bf16(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: weight.bfloat16() for name, weight in weights.items() if weight.dim() == 2})

    base = broken(some_in_bf16)
    given = run_of(scripts, made, tmp_path, "--lora", "--model", str(base), "--max-steps", "1")
    _, model = steps_of(scripts, given)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    _, found, _ = scripts.load_weights.layout(base)
    assert scripts.load_weights.element_bytes(found) == 4


def test_an_adapter_of_another_base_is_refused(adapter: Callable[..., Path], broken: Broken, scripts: ModuleType) -> None:
    def narrower(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            if "_proj" in name and "mlp" in name:
                weights[name] = weights[name][:, :64].clone() if "down" in name else weights[name][:64].clone()

    base = scripts.load_weights.load(broken(narrower, intermediate_size=64))
    with pytest.raises(scripts.problems.UserError, match=r"has shape \[4, 384\]; the rank and the base ask for \[4, 64\]"):
        scripts.lora.load_adapter(base, adapter())
