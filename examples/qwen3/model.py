"""Qwen3 (and Qwen2.5), complete: QK-norm, rotary positions, grouped-query attention, SwiGLU, tied embeddings.

Ordinary PyTorch: it runs where its weights are, on GT's workers or in this process. Parameter names match the
Hugging Face checkpoints.
"""

from __future__ import annotations

import torch
from config import Config
from torch import nn
from torch.utils.checkpoint import checkpoint

F = nn.functional


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
    """cos and sin, each [*positions, head_dim]; angles in float32, cast to the activations' dtype."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.int64, device=positions.device).float()
    angles = positions.float()[..., None] * (1.0 / theta ** (steps / head_dim))
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Half-split rotation of the last dimension."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def document_mask(documents: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What attention adds to the scores of packed rows: 0 within a document up to the token itself, elsewhere -inf.

    documents: [batch, tokens]; returns [batch, 1, tokens, tokens]. Made once for all layers, and not of bool: each layer
    would keep its own conversion for the backward pass.
    """
    tokens = documents.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=documents.device).tril()
    allowed = (documents[:, :, None] == documents[:, None, :]) & causal
    mask = torch.zeros(allowed.shape, dtype=dtype, device=documents.device)
    return mask.masked_fill_(~allowed, float("-inf"))[:, None]


def product_dtype(weight: torch.Tensor) -> torch.dtype:
    """The dtype that matrices are multiplied in: that of autocast, if it is on, else that of the weights."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class Attention(nn.Module):
    """Grouped-query attention: query head h reads kv head h // (heads / kv_heads). Causal, or as the mask says."""

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

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q = self.q_proj(x).view(batch, tokens, self.heads, self.head_dim)
        k = self.k_proj(x).view(batch, tokens, self.kv_heads, self.head_dim)
        v = self.v_proj(x).view(batch, tokens, self.kv_heads, self.head_dim).transpose(1, 2)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q.transpose(1, 2), cos, sin), rotate(k.transpose(1, 2), cos, sin)
        k, v = self.repeat(k), self.repeat(v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
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

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Everything but the output head; in a checkpoint its parameters are prefixed `model.`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Qwen3(nn.Module):
    """Token ids [batch, tokens] (int64) -> logits [batch, tokens, vocabulary].

    `checkpointing`: the backward pass computes each layer's activations again instead of keeping them; same results.
    """

    checkpointing = False

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

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor | None = None,
        documents: torch.Tensor | None = None,
        head: bool = True,
    ) -> torch.Tensor:
        """positions: int64 [batch, tokens], by default 0, 1, 2 ... in each row. documents: int64 [batch, tokens], the number
        of the document that a token belongs to; tokens see only their own. By default a row is one document. Without the
        `head` the result is what it reads: [batch, tokens, hidden], after the last norm.
        """
        x = self.model.embed_tokens(ids)
        places = torch.arange(ids.shape[1], device=ids.device) if positions is None else positions[:, None]
        cos, sin = rotary_tables(places, self.config.head_dim, self.config.rope_theta, x.dtype)
        mask = None if documents is None else document_mask(documents, product_dtype(self.lm_head.weight))
        for layer in self.model.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, cos, sin, mask, use_reentrant=False)
            else:
                x = layer(x, cos, sin, mask)
        x = self.model.norm(x)
        return self.lm_head(x) if head else x
