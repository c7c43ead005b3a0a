"""Qwen3 (and Qwen2.5), complete: QK-norm, rotary positions, grouped-query attention, SwiGLU, tied embeddings.

The one import decides where it runs: `import gt as torch` on GT's workers, `import torch` right here.
Parameter names are those of the Hugging Face checkpoints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gt as torch

nn, F = torch.nn, torch.nn.functional


@dataclass(frozen=True)
class Config:
    """Sizes as in the checkpoint's config.json. The two flags are what tells Qwen2.5's attention from Qwen3's."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 40_960
    qkv_bias: bool = False
    qk_norm: bool = True

    @classmethod
    def from_json(cls, path: Path) -> Config:
        """Read a config.json of model_type `qwen3` or `qwen2`. Raises ValueError naming the file and the key."""
        found = _read_supported(path)
        sizes = {f.name: found.get(f.name) for f in fields(cls) if f.name not in ("qkv_bias", "qk_norm")}
        for field in fields(cls)[: len(sizes)]:
            value = sizes[field.name]
            if type(value) not in TYPES[field.type] or (field.type != "bool" and value <= 0):
                raise ValueError(
                    f"{path}: {field.name} is {value!r}, expected a positive {field.type}".replace("positive bool", "bool")
                )
        config = cls(**sizes, qkv_bias=found["model_type"] == "qwen2", qk_norm=found["model_type"] == "qwen3")
        if config.num_attention_heads % config.num_key_value_heads:
            raise ValueError(
                f"{path}: {config.num_attention_heads} query heads cannot share {config.num_key_value_heads} kv heads"
            )
        if config.head_dim % 2:
            raise ValueError(f"{path}: head_dim is {config.head_dim}, which cannot be rotated in halves")
        return config


TYPES = {"int": (int,), "float": (int, float), "bool": (bool,)}
SUPPORTED = {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}
"""What this model file does not vary; a config.json that asks for something else is refused."""


def _read_supported(path: Path) -> dict[str, Any]:
    """The keys of a config.json, with `rope_theta` and `head_dim` where other keys say them."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    kind = found.get("model_type") if isinstance(found, dict) else None
    if kind not in ("qwen3", "qwen2"):
        raise ValueError(f"{path}: model_type is {kind!r}; this example runs 'qwen3' and 'qwen2'")
    for key, value in SUPPORTED.items():
        if found.get(key, value) != value:
            raise ValueError(f"{path}: {key} is {found[key]!r}; this example runs {value!r} alone")
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ValueError(f"{path}: scaled positions are not supported: {rope}")
    found.setdefault("rope_theta", rope.get("rope_theta"))
    heads = found.get("num_attention_heads")
    if kind == "qwen2" and "head_dim" not in found and heads and isinstance(found.get("hidden_size"), int):
        found["head_dim"] = found["hidden_size"] // heads
    return found


class RMSNorm(nn.Module):
    """w * x / rms(x): the mean of squares in float32, cast back before multiplying by w."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(x.dtype)


def rotary_tables(
    positions: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, each [tokens, head_dim]; angles in float32, cast to the activations' dtype."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.int64, device=positions.device).float()
    angles = positions.float()[:, None] * (1.0 / theta ** (steps / head_dim))[None, :]
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Half-split rotation of the last dimension."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention: query head h reads kv head h // (heads / kv_heads). Causal."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.qk_norm = config.qk_norm

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q = self.q_proj(x).view(batch, tokens, self.heads, self.head_dim)
        k = self.k_proj(x).view(batch, tokens, self.kv_heads, self.head_dim)
        v = self.v_proj(x).view(batch, tokens, self.kv_heads, self.head_dim).transpose(1, 2)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q.transpose(1, 2), cos, sin), rotate(k.transpose(1, 2), cos, sin)
        k, v = self.repeat(k), self.repeat(v)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, tokens, -1))

    def repeat(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, kv_heads, tokens, dim] -> [batch, heads, tokens, dim], each kv head for its group of query heads."""
        group = self.heads // self.kv_heads
        batch, kv_heads, tokens, dim = x.shape
        return x[:, :, None].expand(batch, kv_heads, group, tokens, dim).reshape(batch, self.heads, tokens, dim)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Everything but the output head; its names begin with `model.` in a checkpoint."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Qwen3(nn.Module):
    """Token ids [batch, tokens] (int64) -> logits [batch, tokens, vocabulary]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.model.embed_tokens(ids)
        positions = torch.arange(ids.shape[1], device=ids.device)
        cos, sin = rotary_tables(positions, self.config.head_dim, self.config.rope_theta, x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.model.norm(x))
