"""The sizes of a model from its checkpoint's config.json, read as `transformers` does."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from problems import UserError, read_json


@dataclass(frozen=True)
class Config:
    """Missing keys get the defaults of `transformers`. The last two fields distinguish Qwen2.5 from Qwen3."""

    vocab_size: int = 151_936
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 128
    intermediate_size: int = 22_016
    rope_theta: float = 1e4
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 32_768
    qkv_bias: bool = False
    qk_norm: bool = True

    @classmethod
    def from_json(cls, path: Path) -> Config:
        """Read a config.json of model_type `qwen3` or `qwen2`. Raises UserError (naming the key), FileNotFoundError."""
        found = read_json(path)
        _check_supported(found, path)
        found["rope_theta"] = _rope_theta(found, path)
        for same, as_in in MEANT_BY_NULL.items():
            if same in found and found[same] is None:
                found[same] = found.get(as_in, getattr(cls, as_in))
        sizes = {field.name: found[field.name] for field in fields(cls) if field.name in found}
        for field in fields(cls):
            if field.name in sizes:
                _check_value(path, field.name, field.type, sizes[field.name])
        kind = found["model_type"]
        config = cls(**{**sizes, "qkv_bias": kind == "qwen2", "qk_norm": kind == "qwen3"})
        if kind == "qwen2" and "head_dim" not in sizes:
            config = replace(config, head_dim=config.hidden_size // config.num_attention_heads)
        if config.num_attention_heads % config.num_key_value_heads:
            raise UserError(
                f"{path}: {config.num_attention_heads} query heads cannot share {config.num_key_value_heads} kv heads"
            )
        if config.head_dim % 2:
            raise UserError(f"{path}: head_dim is {config.head_dim}, which is odd and cannot be split in halves")
        return config


TYPES = {"int": (int,), "float": (int, float), "bool": (bool,)}
MEANT_BY_NULL = {"num_key_value_heads": "num_attention_heads"}
KINDS = ("qwen3", "qwen2")
SUPPORTED = {
    "hidden_act": "silu", "attention_bias": False, "use_sliding_window": False, "attention_dropout": 0,
    "quantization_config": None,
}  # fmt: skip
"""Keys with one supported value; a config.json with any other is refused."""


def _check_value(path: Path, name: str, kind: str, value: object) -> None:
    if type(value) not in TYPES[kind] or (kind != "bool" and value <= 0):
        expected = "a bool" if kind == "bool" else f"a positive {kind}"
        raise UserError(f"{path}: {name} is {value!r}, expected {expected}")


def _check_supported(found: dict[str, Any], path: Path) -> None:
    if found.get("model_type") not in KINDS:
        raise UserError(f"{path}: model_type is {found.get('model_type')!r}; this example supports 'qwen3' and 'qwen2'")
    for key, value in SUPPORTED.items():
        if found.get(key, value) != value:
            raise UserError(f"{path}: {key} is {found[key]!r}; this example supports only {value!r}")
    if set(found.get("layer_types") or ()) - {"full_attention"}:
        raise UserError(f"{path}: layer_types has more than full attention, the only kind that this example supports")


def _rope_theta(found: dict[str, Any], path: Path) -> object:
    """The base of the rotary angles: the one given with the scaling wins over the separate key of older files."""
    rope = found.get("rope_scaling") or found.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise UserError(f"{path}: scaled positions are not supported: {rope}")
    if any(isinstance(value, dict) for value in rope.values()):
        raise UserError(f"{path}: positions that differ from layer to layer are not supported: {rope}")
    return rope.get("rope_theta", found.get("rope_theta", Config.rope_theta))
