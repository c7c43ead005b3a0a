"""Unmodified models of `transformers` train, generate, save and load on the device as on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import gt  # noqa: F401 - registers the device

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers

Inputs = dict[str, torch.Tensor]
Remake = Callable[[], Inputs]
VOCABULARY = 97


def numbers(*shape: int, below: int = VOCABULARY, seed: int = 1) -> torch.Tensor:
    """Token ids or labels; never 0..2, which are the models' special tokens."""
    lowest = 3 if below > 3 else 0
    return torch.randint(lowest, below, shape, generator=torch.Generator().manual_seed(seed))


def pixels(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def text() -> Inputs:
    ids = numbers(2, 10)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def padded_text() -> Inputs:
    """The first row is padded on the left, as for generation in a batch."""
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[0, :4] = 0
    ids = numbers(2, 10).masked_fill(mask == 0, 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def classified_text() -> Inputs:
    return {**padded_text(), "labels": numbers(2, below=3)}


def image(size: int = 32) -> Inputs:
    return {"pixel_values": pixels(2, 3, size, size), "labels": numbers(2, below=3)}


def translation() -> Inputs:
    return {**text(), "labels": numbers(2, 6, seed=3)}


def speech() -> Inputs:
    return {"input_features": pixels(2, 8, 32), "labels": numbers(2, 6)}


def captioned_image() -> Inputs:
    return {"input_ids": numbers(2, 10), "pixel_values": pixels(2, 3, 32, 32), "return_loss": True}  # type: ignore[dict-item]


@dataclass(frozen=True)
class Kind:
    """One row: a model class of `transformers`, its configuration, its inputs, and its options."""

    model: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    inputs: Remake = padded_text
    generation: dict[str, Any] | None = field(default_factory=dict)
    """Options of `generate`; None for a model that does not generate."""

    def build(self, device: str, **options: Any) -> Any:
        """The model from seed 0, made on the CPU and moved, in training mode."""
        torch.manual_seed(0)
        model = getattr(transformers, self.model)
        config = getattr(transformers, self.config)(**{**self.options, **options})
        return model(config).to(device)


SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64}
GROUPED = {**TEXT, "num_key_value_heads": 2, "pad_token_id": 0}
HEADS = {**GROUPED, "head_dim": 16}
ROUTED = {**GROUPED, "num_experts_per_tok": 2, "output_router_logits": True}
UNBALANCED = {"output_router_logits": False}
"""The balancing loss of `transformers` does not support a cache."""
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}

KINDS = {
    "llama": Kind("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "mistral": Kind("MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": 4}),
    "qwen3": Kind("Qwen3ForCausalLM", "Qwen3Config", {**HEADS, "tie_word_embeddings": True}),
    "gemma2": Kind("Gemma2ForCausalLM", "Gemma2Config", {**HEADS, "sliding_window": 4, "query_pre_attn_scalar": 16}),
    "gemma3": Kind("Gemma3ForCausalLM", "Gemma3TextConfig", {**HEADS, "sliding_window": 4}),
    "gpt2": Kind("GPT2LMHeadModel", "GPT2Config", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gpt_neox": Kind("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT),
    "opt": Kind("OPTForCausalLM", "OPTConfig", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "mamba": Kind("MambaForCausalLM", "MambaConfig", {**SMALL, "state_size": 8}, text),
    "mixtral": Kind("MixtralForCausalLM", "MixtralConfig", {**ROUTED, "num_local_experts": 4}, generation=UNBALANCED),
    "qwen3_moe": Kind(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**ROUTED, "head_dim": 16, "num_experts": 4, "moe_intermediate_size": 24},
        generation=UNBALANCED,
    ),
    "bert": Kind("BertForSequenceClassification", "BertConfig", {**TEXT, "num_labels": 3}, classified_text, generation=None),
    "distilbert": Kind(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
        generation=None,
    ),
    "t5": Kind(
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
         "decoder_start_token_id": 0},
        translation,
    ),
    "whisper": Kind(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {"vocab_size": VOCABULARY, "num_mel_bins": 8, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
         "max_source_positions": 16, "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None},
        speech,
    ),
    "vit": Kind(
        "ViTForImageClassification",
        "ViTConfig",
        {**TOWER, "image_size": 32, "patch_size": 8, "num_labels": 3},
        image,
        generation=None,
    ),
    "resnet": Kind(
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3},
        image,
        generation=None,
    ),
    "clip": Kind(
        "CLIPModel",
        "CLIPConfig",
        {"text_config": {**TEXT, "eos_token_id": 2}, "vision_config": {**TOWER, "image_size": 32, "patch_size": 8},
         "projection_dim": 16},
        captioned_image,
        generation=None,
    ),
}  # fmt: skip
GENERATING = [name for name, kind in KINDS.items() if kind.generation is not None]
SAMPLED = ["llama", "gpt2", "t5", "mixtral"]


def to(device: str, inputs: Inputs) -> Inputs:
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}


def main_result(out: Any) -> torch.Tensor:
    return out.logits if "logits" in out else out.logits_per_image


def train(model: Any, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Loss, logits, gradients, and parameters and buffers after one step, all on the CPU."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(7)
    out = model(**inputs)
    out.loss.backward()
    found = {"loss": out.loss, "logits": main_result(out)}
    found |= {f"grad of {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    found |= {f"stepped {n}": t for n, t in model.state_dict().items()}
    return {n: t.detach().cpu() for n, t in found.items()}


def assert_same(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> None:
    assert expected.keys() == got.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], msg=lambda text, name=name: f"{name}: {text}")


def assert_trains_alike(kind: Kind, change: Callable[[Any], Any] = lambda model: model, **options: Any) -> tuple[int, int]:
    """Returns how many tensors were bit-equal, and how many there are."""
    found = [train(change(kind.build(d, **options)), to(d, kind.inputs())) for d in ("cpu", "remote")]
    assert_same(*found)
    return sum(torch.equal(a, found[1][n]) for n, a in found[0].items()), len(found[0])


@pytest.mark.parametrize("name", KINDS)
def test_a_model_trains_as_on_the_cpu(name: str, record_property: Callable[[str, object], None]) -> None:
    same, of = assert_trains_alike(KINDS[name])
    record_property("equal to the bit", f"{same} of {of}")


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_each_attention_implementation_trains_as_on_the_cpu(name: str, attention: str) -> None:
    assert_trains_alike(KINDS[name], attn_implementation=attention)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "vit"])
def test_gradient_checkpointing_trains_as_on_the_cpu(name: str) -> None:
    def checkpointed(model: Any) -> Any:
        model.gradient_checkpointing_enable()
        return model

    assert_trains_alike(KINDS[name], checkpointed)


@pytest.mark.parametrize("name", ["llama", "mamba", "mixtral", "bert", "t5", "resnet"])
@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_a_model_of_short_floats_computes_as_on_the_cpu(name: str, cast: str) -> None:
    kind, found = KINDS[name], []
    for device in ("cpu", "remote"):
        model = getattr(kind.build(device).eval(), cast)()
        inputs = {k: getattr(v, cast)() if v.is_floating_point() else v for k, v in to(device, kind.inputs()).items()}
        with torch.no_grad():
            out = model(**inputs)
        found.append({"loss": out.loss.cpu(), "logits": main_result(out).cpu()})
    assert_same(*found)


def generated(kind: Kind, device: str, **options: Any) -> list[list[int]]:
    """Ids of 8 new tokens per row; none ends early."""
    model = kind.build(device).eval()
    inputs = {k: v for k, v in to(device, kind.inputs()).items() if k != "labels"}
    torch.manual_seed(5)
    ids = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, **{**(kind.generation or {}), **options})
    assert ids.device.type == device
    return ids.tolist()


@pytest.mark.parametrize("name", GENERATING)
def test_greedy_generation_gives_the_cpus_ids(name: str) -> None:
    expected, got = (generated(KINDS[name], device, do_sample=False) for device in ("cpu", "remote"))
    assert got == expected
    assert len(got[0]) >= 8


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_generation_gives_the_cpus_ids(name: str) -> None:
    options = {"do_sample": True, "top_p": 0.9, "temperature": 0.8}
    expected, got = (generated(KINDS[name], device, **options) for device in ("cpu", "remote"))
    assert got == expected


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_generation_without_a_cache_and_with_beams_gives_the_cpus_ids(name: str) -> None:
    for options in ({"use_cache": False}, {"num_beams": 3}):
        expected, got = (generated(KINDS[name], device, do_sample=False, **options) for device in ("cpu", "remote"))
        assert got == expected


def logits(model: Any, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        return main_result(model.eval()(**inputs)).cpu()


@pytest.mark.parametrize("name", KINDS)
def test_a_saved_model_loads_here_and_there(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    model = kind.build("remote")
    model.save_pretrained(tmp_path)
    here = type(model).from_pretrained(tmp_path)
    assert {p.device.type for p in here.parameters()} == {"cpu"}
    expected = model.state_dict()
    assert here.state_dict().keys() == expected.keys()
    for key, value in here.state_dict().items():
        assert torch.equal(value, expected[key].cpu()), key
    inputs = to("remote", kind.inputs())
    assert torch.equal(logits(here.to("remote"), inputs), logits(model, inputs))


@pytest.mark.parametrize("name", KINDS)
def test_tied_weights_stay_tied(name: str) -> None:
    local, remote = (KINDS[name].build(device) for device in ("cpu", "remote"))
    assert ties(remote) == ties(local)


def ties(model: Any) -> set[frozenset[str]]:
    """Groups of names of the same parameter."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(found) for found in names.values() if len(found) > 1}


def test_the_ties_that_are_compared_exist() -> None:
    assert {name for name in KINDS if ties(KINDS[name].build("remote"))} >= {"qwen3", "gpt2", "t5", "gemma2", "whisper"}
