"""A Qwen3 training step (forward, loss, backward, fused AdamW) in three sizes, under GT and local PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import torch

import gt
from benchmarks.presets import PRESETS, Preset, build_config, load_model
from benchmarks.processes import peak_resident_bytes

Row = tuple[str, float, float, float]
Paired = Callable[[Callable[[], object], Callable[[], object], int], tuple[float, float]]


MEMORY_BAR = 1.1


def trainer(preset: Preset, device: str) -> Callable[[], float]:
    """`preset.steps` training steps, ending with one fetch of the loss."""
    torch.manual_seed(0)
    with torch.device(device):
        model = load_model().Qwen3(build_config(preset))
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
    print(gt.debug.stats().peak_rss_bytes if device == "remote" else peak_resident_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
