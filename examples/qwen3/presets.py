"""The models that --preset names: where they are, their sizes, and the options that they begin with."""

from __future__ import annotations

from dataclasses import dataclass, field

from config import Config


@dataclass(frozen=True)
class Preset:
    """`model`: its name on the hub; None: the tiny one, which is generated. `defaults`: of the options."""

    model: str | None
    config: Config
    defaults: dict[str, object] = field(default_factory=dict)


def _qwen3(hidden: int, layers: int, heads: int, inner: int, tied: bool) -> Config:
    """What all sizes share: 8 kv heads of 128, the vocabulary, the positions."""
    return Config(151_936, hidden, layers, heads, 8, 128, inner, 1e6, 1e-6, tied, 40_960)


TINY = Config(1024, 128, 4, 4, 2, 48, 384, 1e6, 1e-6, True)
PRESETS = {
    "tiny": Preset(None, TINY, {"epochs": 16, "batch_size": 16, "lr": 3e-3}),
    "0.6B": Preset("Qwen/Qwen3-0.6B", _qwen3(1024, 28, 16, 3072, True)),
    "1.7B": Preset("Qwen/Qwen3-1.7B", _qwen3(2048, 28, 16, 6144, True), {"precision": "bf16"}),
    "4B": Preset("Qwen/Qwen3-4B", _qwen3(2560, 36, 32, 9728, True), {"precision": "bf16", "batch_size": 1}),
    "8B": Preset("Qwen/Qwen3-8B", _qwen3(4096, 36, 32, 12288, False), {"precision": "bf16", "batch_size": 1}),
}
"""Sizes as in the official configurations. All other options keep their own defaults."""
