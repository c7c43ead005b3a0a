"""The model and its checkpoints against `transformers`, and what is rejected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen3Config

from tests.oracle.qwen3.conftest import Broken, difference, run


@pytest.mark.parametrize(
    ("kind", "hidden", "heads", "kv_heads", "head_dim"),
    [
        ("qwen3", 48, 4, 1, 16),
        ("qwen3", 40, 4, 2, 24),
        ("qwen3", 64, 6, 6, 8),
        ("qwen3", 32, 8, 2, 16),
        ("qwen2", 48, 6, 2, 8),
        ("qwen2", 64, 4, 4, 16),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_and_gradients_are_those_of_transformers(
    kind: str, hidden: int, heads: int, kv_heads: int, head_dim: int, tied: bool, scripts: ModuleType, tmp_path: Path
) -> None:
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "num_hidden_layers": 2}
    sizes |= {"vocab_size": 97, "intermediate_size": 56, "tie_word_embeddings": tied}
    sizes |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    config = Qwen3Config(head_dim=head_dim, **sizes) if kind == "qwen3" else Qwen2Config(**sizes)
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(config)
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, mean=0.2 * (parameter.dim() == 1), std=0.3)
    reference.save_pretrained(tmp_path)
    model = scripts.load_weights.load(tmp_path)
    ids, targets = np.random.default_rng(0).integers(0, 97, (2, 3, 21))
    targets[:, :5] = -100
    loss = scripts.evaluation.loss_sum(model, scripts.prepared.Batch(ids, targets))
    loss.backward()
    expected = reference(torch.from_numpy(ids)).logits
    torch.nn.functional.cross_entropy(
        expected.flatten(0, 1), torch.from_numpy(targets).flatten(), reduction="sum"
    ).backward()
    with torch.no_grad():
        logits = model(torch.from_numpy(ids).to("remote")).cpu()
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters()}
    assert set(gradients) == {name for name, _ in reference.named_parameters()}
    for name, parameter in reference.named_parameters():
        assert (gradients[name] - parameter.grad).abs().max() <= 1e-5 * parameter.grad.abs().max(), name


@pytest.mark.parametrize(
    ("hidden", "layers", "heads", "intermediate", "tied", "count"),
    [
        (1024, 28, 16, 3072, True, 596_049_920),
        (2048, 28, 16, 6144, True, 1_720_574_976),
        (2560, 36, 32, 9728, True, 4_022_468_096),
        (4096, 36, 32, 12288, False, 8_190_735_360),
    ],
)
def test_the_official_sizes_have_the_official_number_of_parameters(
    hidden: int, layers: int, heads: int, intermediate: int, tied: bool, count: int, scripts: ModuleType
) -> None:
    config = scripts.model.Config(151_936, hidden, layers, heads, 8, 128, intermediate, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = scripts.model.Qwen3(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


ROPE = [
    {"rope_theta": 5e5},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 2e5}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 2e5}, "rope_theta": 5e5},
    {"rope_parameters": {"rope_type": "default"}, "rope_theta": 5e5},
    {"rope_parameters": None, "rope_theta": 5e5},
    {"rope_scaling": {"type": "default", "rope_theta": 3e5}, "rope_parameters": {"rope_theta": 2e5}, "rope_theta": 5e5},
    {"rope_scaling": None, "rope_theta": 5e5},
    {},
]


def read_by_transformers(folder: Path) -> dict[str, object]:
    found = AutoConfig.from_pretrained(folder)
    width = found.hidden_size // found.num_attention_heads
    return {**found.to_dict(), **found.rope_parameters, "head_dim": getattr(found, "head_dim", None) or width}


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_what_a_config_leaves_out_is_what_transformers_takes_for_it(
    kind: str, made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    whole = json.loads((made / kind / "config.json").read_text()) | {"num_attention_heads": 32, "num_key_value_heads": 16}
    cases = [{key: value for key, value in whole.items() if key != left_out or key == "model_type"} for left_out in whole]
    plain = {key: value for key, value in whole.items() if not key.startswith("rope")}
    cases += [plain | rope for rope in ROPE] + [whole | {"num_key_value_heads": None}, {"model_type": kind}]
    for case in cases:
        (tmp_path / "config.json").write_text(json.dumps(case))
        ours = asdict(scripts.config.Config.from_json(tmp_path / "config.json"))
        theirs = read_by_transformers(tmp_path)
        assert (ours.pop("qkv_bias"), ours.pop("qk_norm")) == (kind == "qwen2", kind == "qwen3")
        assert ours == {name: theirs[name] for name in ours}, case


def test_logits_follow_the_newer_of_two_bases_of_the_angles(broken: Broken, scripts: ModuleType) -> None:
    folder = broken(rope_theta=1e6, rope_parameters={"rope_type": "default", "rope_theta": 1e3})
    assert difference(scripts, folder) <= 1e-5


def stored_frequencies(weights: dict[str, torch.Tensor]) -> None:
    for place in ("model", "model.layers.0.self_attn"):
        weights[f"{place}.rotary_emb.inv_freq"] = torch.ones(24)


def without_prefix(weights: dict[str, torch.Tensor]) -> None:
    for name in list(weights):
        weights[name.removeprefix("model.")] = weights.pop(name)


@pytest.mark.parametrize(
    ("change", "config"),
    [
        (stored_frequencies, {}),
        (without_prefix, {"architectures": ["Qwen3Model"]}),
        (lambda weights: (without_prefix(weights), stored_frequencies(weights)), {}),
        (None, {"rope_theta": None}),
        (None, {"rope_theta": 10}),
        (None, {"rms_norm_eps": None}),
        (None, {"hidden_act": None, "attention_bias": None, "max_position_embeddings": None, "eos_token_id": None}),
        (None, {"sliding_window": 4, "max_window_layers": 1, "use_sliding_window": False}),
        (None, {"layer_types": ["full_attention"] * 4}),
    ],
)
def test_what_is_loaded_is_what_transformers_loads_to_the_bit(
    change: Callable[[dict[str, torch.Tensor]], object] | None,
    config: dict[str, object],
    broken: Broken,
    scripts: ModuleType,
) -> None:
    folder = broken(change, **config)
    assert difference(scripts, folder) == 0


DOCUMENTS = [(9, 5, 8), (15, 4)]
"""The lengths of the documents in two packed rows; the second row ends with padding."""
WIDTH = 24


def packed_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids, targets, positions and documents of the packed rows. A document's first token is no target."""
    ids = np.random.default_rng(0).integers(0, 97, (len(DOCUMENTS), WIDTH))
    targets, positions, documents = np.full_like(ids, -100), np.zeros_like(ids), np.full_like(ids, -1)
    for row, lengths in enumerate(DOCUMENTS):
        start = 0
        for number, length in enumerate(lengths):
            whole = slice(start, start + length)
            targets[row, start : start + length - 1] = ids[row, start + 1 : start + length]
            positions[row, whole], documents[row, whole] = np.arange(length), number
            start += length
    return ids, targets, positions, documents


def summed(model: torch.nn.Module, targets: np.ndarray, *given: np.ndarray) -> torch.Tensor:
    """The sum of the losses, whose gradients are added to the parameters'."""
    device = model.lm_head.weight.device
    logits = model(*(torch.from_numpy(array).to(device) for array in given)).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets).flatten().to(device), reduction="sum")
    loss.backward()
    return loss.detach()


def small(scripts: ModuleType, kind: str = "qwen3") -> torch.nn.Module:
    """A model of two layers with weights large enough for attention to matter."""
    flags = {"qkv_bias": kind == "qwen2", "qk_norm": kind == "qwen3"}
    torch.manual_seed(0)
    model = scripts.model.Qwen3(scripts.config.Config(97, 48, 2, 4, 2, 16, 56, tie_word_embeddings=True, **flags))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.2 * (parameter.dim() == 1), std=0.3)
    return model


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("path", [None, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_packed_documents_give_the_loss_and_gradients_of_documents_by_themselves(
    path: SDPBackend | None, kind: str, dtype: torch.dtype, bound: float, scripts: ModuleType
) -> None:
    """On a worker, and by each of the kernels that PyTorch has for attention on a CPU."""
    ids, targets, positions, documents = packed_rows()
    packed, alone = (small(scripts, kind).to("cpu" if path else "remote", dtype) for _ in range(2))
    expected = 0.0
    with sdpa_kernel(path) if path else nullcontext():
        found = summed(packed, targets, ids, positions, documents).item()
        for row, lengths in enumerate(DOCUMENTS):
            for end, length in zip(np.cumsum(lengths), lengths, strict=True):
                part = slice(row, row + 1), slice(end - length, end)
                expected += summed(alone, targets[part], ids[part]).item()
    assert found == pytest.approx(expected, rel=bound)
    for (name, one), other in zip(packed.named_parameters(), alone.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= bound * other.grad.norm(), name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_documents_have_the_logits_of_transformers(attention: str, made: Path, scripts: ModuleType) -> None:
    reference = AutoModelForCausalLM.from_pretrained(made / "qwen3", attn_implementation=attention)
    ids, _, positions, documents = (torch.from_numpy(array) for array in packed_rows())
    with torch.no_grad():
        expected = reference(ids, position_ids=positions, use_cache=False).logits
        found = scripts.load_weights.load(made / "qwen3")(ids.to("remote"), positions.to("remote"), documents.to("remote"))
    real = documents >= 0
    assert (found.cpu() - expected)[real].abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("device", ["remote", "cpu"])
def test_checkpointing_changes_no_bit_nor_does_gt(device: str, bf16: bool, scripts: ModuleType) -> None:
    ids, targets, *where = packed_rows()
    for packed in (where, []):
        found = []
        for place, checkpointing in (("cpu", False), (device, True)):
            model = small(scripts).to(place)
            model.checkpointing = checkpointing
            with torch.autocast(place, torch.bfloat16, enabled=bf16):
                loss = summed(model, targets, ids, *packed)
            found.append((loss.item(), torch.cat([p.grad.flatten().cpu() for p in model.parameters()])))
        assert found[0][0] == found[1][0]
        assert torch.equal(found[0][1], found[1][1])


def test_checkpointing_keeps_only_what_layers_are_given(scripts: ModuleType) -> None:
    ids, _, *packed = (torch.from_numpy(array) for array in packed_rows())
    kept: dict[bool, list[int]] = {False: [], True: []}
    for checkpointing, sizes in kept.items():
        model = small(scripts)
        model.checkpointing = checkpointing
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            model(ids, *packed, head=False)
    assert sum(kept[True]) < sum(kept[False]) / 4


def test_bfloat16_follows_transformers_cast_by_cast(made: Path, scripts: ModuleType) -> None:
    reference = AutoModelForCausalLM.from_pretrained(made / "qwen3", dtype=torch.bfloat16)
    model = scripts.load_weights.load(made / "qwen3").bfloat16()
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert torch.equal(model(ids.to("remote")).cpu(), reference(ids).logits)


def sharded(source: Path, out: Path, head: torch.Tensor | None = None) -> Path:
    """The checkpoint in the layout of the 1.7B repository: bf16, with a second shard that holds only lm_head."""
    shutil.copytree(source, out)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(out / "model.safetensors").items()}
    (out / "model.safetensors").unlink()
    other = {"lm_head.weight": weights["model.embed_tokens.weight"].clone() if head is None else head}
    places = {}
    for number, part in enumerate((weights, other), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(part, out / name, {"format": "pt"})
        places |= dict.fromkeys(part, name)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = json.loads((out / "config.json").read_text())
    del config["dtype"]
    (out / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    return out


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_the_tiny_twins_are_verified_against_transformers(kind: str, made: Path) -> None:
    done = run("load_weights.py", "--model", str(made / kind))
    assert "Forward pass verification PASSED" in done.stdout, done.stdout + done.stderr


def test_a_tied_head_in_a_second_bf16_shard_is_verified_and_written_once(
    made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    folder = sharded(made / "qwen3", tmp_path / "sharded")
    model = scripts.load_weights.load(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert difference(scripts, folder, model) == 0
    (tmp_path / "saved").mkdir()
    scripts.checkpoint_files.write_folder(model.float(), folder, tmp_path / "saved", scripts.checkpoint_files.save_now)
    assert "lm_head.weight" not in load_file(tmp_path / "saved" / "model.safetensors")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert saved.dtype == torch.float32
    other = sharded(made / "qwen3", tmp_path / "other", torch.ones(1024, 128, dtype=torch.bfloat16))
    with pytest.raises(scripts.problems.UserError, match=r"lm_head\.weight differs from the embedding"):
        scripts.load_weights.load(other)


def test_weights_are_verified_in_float32_but_only_a_layers_of_them_exist_in_that(
    made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    folder = sharded(made / "qwen3", tmp_path / "sharded")
    model, expected = scripts.load_weights.load(folder), scripts.verify.expected(folder, torch.bfloat16)
    assert expected.dtype == np.float32
    torch.remote.synchronize()
    before = torch.remote.memory_allocated()
    torch.remote.reset_peak_memory_stats()
    assert scripts.verify.difference(model, expected) == 0
    head_and_logits = 4 * (model.lm_head.weight.numel() + expected.size)
    assert torch.remote.max_memory_allocated() - before < 1.5 * head_and_logits
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_weights_past_the_size_of_a_file_are_in_several_as_transformers_writes_them(
    made: Path, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scripts.checkpoint_files.FILE_BYTES == 5e9
    monkeypatch.setattr(scripts.checkpoint_files, "FILE_BYTES", 10**6)
    model = scripts.load_weights.load(made / "qwen3")
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    scripts.checkpoint_files.write_folder(model, made / "qwen3", tmp_path / "ours", scripts.checkpoint_files.save_now)
    AutoModelForCausalLM.from_pretrained(made / "qwen3").save_pretrained(tmp_path / "theirs", max_shard_size=10**6)
    index = [json.loads((tmp_path / name / "model.safetensors.index.json").read_text()) for name in ("ours", "theirs")]
    assert index[0]["metadata"]["total_size"] == index[1]["metadata"]["total_size"]
    assert set(index[0]["weight_map"]) == set(index[1]["weight_map"])
    files = sorted((tmp_path / "ours").glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-0000{i}-of-00005.safetensors" for i in range(1, 6)]
    assert all(file.stat().st_size < 10**6 + 10**4 for file in files)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(loaded[name], tensor.cpu()) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; this example supports 'qwen3' and 'qwen2'"),
        ({"hidden_size": None}, "has shape [1024, 128], config.json asks for [1024, 4096]"),
        ({"num_key_value_heads": None}, "4 query heads cannot share 32 kv heads"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4', expected a positive int"),
        ({"head_dim": "48"}, "head_dim is '48', expected a positive int"),
        ({"tie_word_embeddings": None}, "lm_head.weight is missing"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', expected a bool"),
        ({"rope_parameters": {"rope_theta": None}}, "rope_theta is None, expected a positive float"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3 kv heads"),
        ({"head_dim": 47}, "head_dim is 47, which is odd and cannot be split in halves"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; this example supports only 'silu'"),
        ({"attention_bias": True}, "attention_bias is True; this example supports only False"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1; this example supports only 0"),
        ({"use_sliding_window": True}, "use_sliding_window is True; this example supports only False"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}; this example supports only None"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "scaled positions are not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "scaled positions are not supported"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5e5}}}, "positions that differ from layer to layer"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has more than full attention"),
        ({"intermediate_size": 100}, r"has shape [128, 384], config.json asks for [128, 100]"),
    ],
)
def test_a_wrong_config_is_refused_by_file_and_key(
    config: dict[str, object], said: str, broken: Broken, scripts: ModuleType
) -> None:
    folder = broken(**config)
    with pytest.raises(scripts.problems.UserError) as caught:
        scripts.load_weights.load(folder)
    assert str(folder) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda w: w.update(extra=torch.ones(1)), "unexpected tensor extra"),
        (lambda w: w.update({"model.norm.weight": torch.ones(127)}), "has shape [127], config.json asks for [128]"),
        (lambda w: w.update({"model.norm.weight": torch.ones(128, dtype=torch.int32)}), "has dtype I32, expected"),
        (lambda w: w.update({"lm_head.weight": w["model.norm.weight"].clone()}), "lm_head.weight has shape [128]"),
        (lambda w: w.update({"norm.weight": torch.ones(128)}), "model.norm.weight and norm.weight, which are one tensor"),
        (
            lambda w: w.update({"norm.weight": w.pop("model.norm.weight").double()}),
            "norm.weight has dtype F64, expected F32",
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], object], said: str, broken: Broken, scripts: ModuleType
) -> None:
    folder = broken(change)
    with pytest.raises(scripts.problems.UserError) as caught:
        scripts.load_weights.load(folder)
    assert str(folder) in str(caught.value)
    assert said in str(caught.value)


def test_damaged_files_are_refused_by_name(broken: Broken, made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    whole = (made / "qwen3" / "model.safetensors").read_bytes()
    for content in (whole[:-1000], whole + b"x", whole[:500], whole[:3], b"", b"\xff" * 100, b"\x02" + bytes(7) + b"[]"):
        folder = broken()
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(scripts.problems.UserError, match=r"model\.safetensors: "):
            scripts.load_weights.load(folder)
    folder = sharded(made / "qwen3", tmp_path / "sharded")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(scripts.problems.UserError, match=r"00002\.safetensors: model\.norm\.weight is missing"):
        scripts.load_weights.load(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"00002\.safetensors"):
        scripts.load_weights.load(folder)
