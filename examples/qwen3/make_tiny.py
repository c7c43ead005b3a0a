"""Generates tiny checkpoints in Hugging Face's format: a Qwen3 and a Qwen2.5, with a tokenizer trained on the tiny data.

    python make_tiny.py OUT [--kind qwen3|qwen2] [--data DATA.json]

Seeded: the same call writes the same bytes.
"""

from __future__ import annotations

import problems  # noqa: F401

# isort: split
import argparse
import json
from pathlib import Path

import numpy as np
from chat import BUILT_IN
from folders import OUTPUT, check_output, whole
from make_data import rows
from safetensors.numpy import save
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Pre-tokenisation pattern of Qwen's tokenizers, before byte-level BPE (tokenizer.json of Qwen/Qwen3-1.7B)."""
MADE_OF = {"model": "tiny"}
SIZES = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 48,
    "intermediate_size": 384,
}


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE with Qwen's pre-tokenisation and special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = SIZES["vocab_size"] - len(SPECIALS)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def make_config(kind: str, tokenizer: Tokenizer) -> dict[str, object]:
    """The config.json of one kind; Qwen2.5's head_dim is hidden size over heads."""
    sizes = dict(SIZES) if kind == "qwen3" else {k: v for k, v in SIZES.items() if k != "head_dim"}
    return {
        "architectures": ["Qwen3ForCausalLM" if kind == "qwen3" else "Qwen2ForCausalLM"],
        "model_type": kind,
        **sizes,
        "hidden_act": "silu",
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "attention_dropout": 0.0,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "dtype": "float32",
    }


def make_weights(kind: str, config: dict[str, object], seed: int) -> dict[str, np.ndarray]:
    """Matrices and biases from N(0, 0.02), norm weights of one, under the checkpoint's names."""
    random = np.random.default_rng(seed)
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    heads, kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
    dim = int(config.get("head_dim", hidden // heads))

    def normal(*shape: int) -> np.ndarray:
        return random.normal(0.0, 0.02, shape).astype(np.float32)

    weights = {"model.embed_tokens.weight": normal(int(config["vocab_size"]), hidden)}
    for index in range(int(config["num_hidden_layers"])):
        layer = f"model.layers.{index}."
        widths = {"q": heads * dim, "k": kv_heads * dim, "v": kv_heads * dim}
        for name, width in widths.items():
            weights[f"{layer}self_attn.{name}_proj.weight"] = normal(width, hidden)
            if kind == "qwen2":
                weights[f"{layer}self_attn.{name}_proj.bias"] = normal(width)
        weights[f"{layer}self_attn.o_proj.weight"] = normal(hidden, heads * dim)
        if kind == "qwen3":
            for name in ("q_norm", "k_norm"):
                weights[f"{layer}self_attn.{name}.weight"] = np.ones(dim, np.float32)
        for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            weights[f"{layer}mlp.{name}_proj.weight"] = normal(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}{name}.weight"] = np.ones(hidden, np.float32)
    weights["model.norm.weight"] = np.ones(hidden, np.float32)
    return weights


def make(out: Path, kind: str, texts: list[str], seed: int = 0) -> None:
    """Write the checkpoint folder `out`, unless it exists. Raises UserError if `out` has other content."""
    tokenizer = make_tokenizer(texts)
    config = make_config(kind, tokenizer)
    about = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    about["chat_template"] = BUILT_IN[kind]
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": (json.dumps(about, indent=2) + "\n").encode(),
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "model.safetensors": save(make_weights(kind, config, seed), {"format": "pt"}),
    }
    if all((out / name).is_file() and (out / name).read_bytes() == content for name, content in files.items()):
        return
    check_output(out, OUTPUT, MADE_OF)
    with whole(out, OUTPUT, MADE_OF) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)


def texts_of(data: list[dict[str, str]]) -> list[str]:
    """The texts that the tokenizer is trained on."""
    return ["\n".join(map(str, row.values())) for row in data]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=["qwen3", "qwen2"], default="qwen3")
    parser.add_argument("--data", type=Path, help="train the tokenizer on this data set (default: the tiny one)")
    given = parser.parse_args()
    data = json.loads(given.data.read_text()) if given.data else rows()
    make(given.out, given.kind, texts_of(data))
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
