"""How long training waits for a checkpoint: `python -m benchmarks.checkpoint [RUNS]`.

Steps of the preset 30m, as examples/qwen3/train.py makes them; after every second one a checkpoint of the weights and of
AdamW's state begins, which the worker writes while the next step is made. Printed: a step with nothing beside it, one beside
the writing, and the pauses: from the end of a step until the worker answers again.
"""

from __future__ import annotations

import os

os.environ.setdefault("GT_WORKER_THREADS", "1")  # before gt starts its worker

# isort: split
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gt
from benchmarks.presets import PRESETS, build_config, load_example

WARM_UP, RUNS, BAR = 2, 5, 0.1


def main() -> None:
    """Print the pauses of RUNS checkpoints."""
    runs = int(sys.argv[1]) if sys.argv[1:] else RUNS
    with tempfile.TemporaryDirectory() as folder:
        step, save, finish = _training(Path(folder))
        alone, beside, pauses = [], [], []
        for number in range(WARM_UP + runs):
            alone.append(_seconds(step))
            pauses.append(_seconds(lambda number=number: save(number + 1)))
            beside.append(_seconds(step))
            finish()
    took, writing, paused = (statistics.median(times[WARM_UP:]) for times in (alone, beside, pauses))
    print(f"a step {took:.2f} s, beside the writing {writing:.2f} s; medians of {runs}")
    print(f"pauses {', '.join(f'{pause:.2f}' for pause in pauses[WARM_UP:])} s, the first of all {pauses[0]:.2f} s")
    ratio = paused / took
    print(f"pause / step {ratio:.3f}x   bar {BAR:g}x   {'met' if ratio <= BAR else 'missed'}")


def _training(folder: Path) -> tuple[Callable[[], None], Callable[[int], None], Callable[[], None]]:
    """A step, the begin of a checkpoint after so many steps, and the end of one under way."""
    train, preset = load_example("train"), PRESETS["30m"]
    with train.torch.device("remote"):
        model = train.Qwen3(build_config(preset))
    stepper = train.Stepper(train.trained(model), train.parse(None, told=[]))
    checkpoints = train.Checkpoints(folder, keep=1)
    ids = np.random.default_rng(0).integers(0, preset.vocabulary, (preset.batch, preset.tokens))
    targets = np.roll(ids, -1, 1)
    targets[:, -1] = load_example("prepared").IGNORED

    def step() -> None:
        loss = train.accumulate(model, [train.Batch(ids, targets)], autocast=False)
        train.torch.stack([loss, stepper.step(1.0)]).tolist()

    def save(steps: int) -> None:
        weights: dict[str, Any] = {name: weight.detach() for name, weight in train.trained(model).items()}
        train.torch.nn.utils.get_total_norm([*weights.values()]).isfinite().item()
        state = train.State(losses=[0.0] * steps)
        checkpoints.begin(state, lambda place, write: write(weights, place / "model.safetensors"), stepper.state())
        gt.remote.synchronize()

    return step, save, checkpoints.finish


def _seconds(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
