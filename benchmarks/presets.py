"""The sizes of Qwen3 that benchmarks train."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

EXAMPLE = Path(__file__).parent.parent / "examples" / "qwen3"


@dataclass(frozen=True)
class Preset:
    """The shapes of one size; `bar` is the most that GT's step may take, as a multiple of a local step (0: none is set)."""

    name: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    batch: int
    tokens: int
    bar: float = 0.0
    steps: int = 1
    """Steps between two fetches of the loss."""
    runs: int = 5


PRESETS = {
    p.name: p
    for p in (
        Preset("micro", 512, 64, 2, 4, 2, 16, 128, 2, 32, 2.5, 20, 9),
        Preset("tiny", 2048, 128, 4, 4, 2, 32, 384, 8, 128, 1.2, 4, 7),
        Preset("30m", 8192, 512, 8, 8, 4, 64, 1536, 8, 256, 1.05, 1, 5),
    )
}


REAL = Preset("0.6B", 151_936, 1024, 28, 16, 8, 128, 3072, 1, 512)
"""Qwen3-0.6B, one row."""


def load_model() -> ModuleType:
    """The example's model file, which runs where its weights are."""
    return load_example("model")


def load_example(name: str) -> ModuleType:
    """A file of the example, by its name."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLE))


def build_config(preset: Preset) -> Any:
    """The example's configuration of a size."""
    return load_model().Config(
        vocab_size=preset.vocabulary,
        hidden_size=preset.hidden,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.kv_heads,
        head_dim=preset.head_dim,
        intermediate_size=preset.intermediate,
        rope_theta=1e6,
        tie_word_embeddings=True,
    )
