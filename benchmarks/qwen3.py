"""A Qwen3 training step (forward, loss, backward, fused AdamW) in three sizes, under GT and local PyTorch."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

import gt

EXAMPLE = Path(__file__).parent.parent / "examples" / "qwen3"
Row = tuple[str, float, float, float]
Paired = Callable[[Callable[[], object], Callable[[], object], int], tuple[float, float]]


@dataclass(frozen=True)
class Preset:
    """The shapes of one size; `bar` is the most that GT's step may take, as a multiple of a local step."""

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
    bar: float
    steps: int
    """Steps between two fetches of the loss."""
    runs: int


PRESETS = {
    p.name: p
    for p in (
        Preset("micro", 512, 64, 2, 4, 2, 16, 128, 2, 32, 2.5, 20, 9),
        Preset("tiny", 2048, 128, 4, 4, 2, 32, 384, 8, 128, 1.2, 4, 7),
        Preset("30m", 8192, 512, 8, 8, 4, 64, 1536, 8, 256, 1.05, 1, 5),
    )
}
MEMORY_BAR = 1.1


def load_model() -> ModuleType:
    """The example's model file, which runs where its weights are."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return importlib.import_module("model")
    finally:
        sys.path.remove(str(EXAMPLE))


def trainer(preset: Preset, device: str) -> Callable[[], float]:
    """`preset.steps` training steps, ending with one fetch of the loss."""
    module = load_model()
    torch.manual_seed(0)
    config = module.Config(
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
    with torch.device(device):
        model = module.Qwen3(config)
        ids = torch.randint(0, preset.vocabulary, (preset.batch, preset.tokens))
        labels = torch.randint(0, preset.vocabulary, (preset.batch, preset.tokens))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def steps() -> float:
        for _ in range(preset.steps):
            logits = model(ids)
            loss = torch.nn.functional.cross_entropy(logits.view(-1, preset.vocabulary), labels.view(-1))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.item())

    return steps


def measure(preset: Preset, paired: Paired) -> list[Row]:
    remote, local = trainer(preset, "remote"), trainer(preset, "cpu")
    for _ in range(2):
        a, b = remote(), local()
    if a != b:
        print(f"  (losses differ: {a!r} and {b!r})")
    first, second = paired(remote, local, preset.runs)
    rows = [(f"Qwen3 training step, {preset.name}", first / preset.steps, second / preset.steps, preset.bar)]
    worker, alone = peak(preset.name, "remote"), peak(preset.name, "cpu")
    return [*rows, (f"  peak memory of the worker, {preset.name}", float(worker), float(alone), MEMORY_BAR)]


def peak(name: str, device: str) -> int:
    """Peak resident bytes of the process that holds the tensors, after three steps in a separate process."""
    command = [sys.executable, "-m", "benchmarks.qwen3", name, device]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main(name: str, device: str) -> None:
    steps = trainer(PRESETS[name], device)
    for _ in range(3):
        steps()
    local = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(gt.debug.stats().peak_rss_bytes if device == "remote" else local)


if __name__ == "__main__":
    main(*sys.argv[1:])
