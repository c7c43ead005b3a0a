"""The same fine-tune by GT, by a plain PyTorch loop and by TRL's SFTTrainer: tokens/s, memory, time to the first step.

`python -m benchmarks.finetune [ROW ...]`; one thread a side, each side in its own process, steps in turn, medians of five.
`pip install -e .[example,benchmark]` has the packages; without TRL or PEFT the other sides are measured. The settings of the
sides are in finetune_sides.py. Rows:

    all             every token a target; also the worker's memory against that with full logits
    answers         about a fifth of the tokens are targets
    lora            rank 16 on all linear layers, every token a target
    lora-answers    the same with a fifth of the tokens
    start           train.py on prepared rows, from its start to the first batch that it prints
    0.6B            Qwen3-0.6B at its real shapes, LoRA on a bf16 base, 512 tokens, one step: only if it is named, as matrix
                    products in bf16 take minutes on a CPU that has no instructions for them

The first four: Qwen3 with the shapes of the preset 30m and a vocabulary of 151,936, 4 x 256 tokens, fp32, random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.finetune_sides import Job, Step
from benchmarks.presets import EXAMPLE, PRESETS, REAL
from benchmarks.processes import Process, medians

RUNS, WARM_UP, MIB = 5, 2, 1 << 20
VOCABULARY, BATCH = 151_936, 4
NAMES = {"gt": "GT", "gt-full-logits": "GT, full logits", "plain": "plain PyTorch", "sft": "SFTTrainer"}
START_BAR, WORKER_BAR_BYTES = 1.3, 6e9
ONE_THREAD = {"OMP_NUM_THREADS": "1", "GT_WORKER_THREADS": "1"}
QUIET = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
}  # fmt: skip
CLOSE = 1e-4
"""How far the sides' first losses may be apart, relative: the arithmetic is the same, its order is not."""


@dataclass(frozen=True)
class Row:
    """`speed`: for each peer how many times its tokens/s GT's should be; `memory`: what share of its bytes at most."""

    lora: bool = False
    answers: bool = False
    speed: Mapping[str, float] | None = None
    memory: Mapping[str, float] | None = None


ROWS = {
    "all": Row(speed={"plain": 1.2, "sft": 2.0}, memory={"sft": 0.5, "gt-full-logits": 0.6}),
    "answers": Row(answers=True, speed={"plain": 1.5}),
    "lora": Row(lora=True, speed={"sft": 1.5}),
    "lora-answers": Row(lora=True, answers=True, speed={"sft": 1.5}),
}


def main() -> None:
    """Measure rows and print the figures of each."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.finetune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS, "start", "0.6B"], help="default: all but 0.6B")
    parser.add_argument("--preset", choices=[*PRESETS], default="30m", help="other shapes; the bars are those of 30m")
    parser.add_argument("--runs", type=int, default=RUNS, help="steps that count")
    given = parser.parse_args()
    for name in given.rows or [*ROWS, "start"]:
        if name in ROWS:
            compare(name, given.preset, given.runs)
        else:
            {"start": start, "0.6B": real_shapes}[name](given.runs)


# -- steps -----------------------------------------------------------------------------------------------------------------


class Side:
    """The process of one side, and what it said last."""

    def __init__(self, kind: str, job: Job) -> None:
        self.kind = kind
        self.process = Process("benchmarks.finetune_sides", [kind, job.to_json()], os.environ | ONE_THREAD | QUIET)
        self.first_loss: float | None = None

    def step(self) -> float:
        """Make a step; returns its seconds."""
        self.process.begin()
        self.last = Step(**json.loads(self.process.answer()))
        if self.first_loss is None:
            self.first_loss = self.last.loss
        return self.last.seconds

    def close(self) -> None:
        self.process.end()
        self.process.wait()


def compare(name: str, preset: str, runs: int) -> None:
    """Print tokens/s and memory of each side of a row, and GT's ratios."""
    row, shapes = ROWS[name], replace(PRESETS[preset], batch=BATCH)
    if preset == "30m":
        shapes = replace(shapes, vocabulary=VOCABULARY)
    job = Job(shapes, row.lora, row.answers, steps=WARM_UP + runs)
    print(f"{name}: {preset}, {shapes.vocabulary:,} entries, {shapes.batch} x {shapes.tokens} tokens; medians of {runs}")
    speeds, last = _measure(["gt", *_peers(row.lora)], job, runs)
    memory = row.memory or {}
    if "gt-full-logits" in memory:
        last |= _measure(["gt-full-logits"], job, 1)[1]
    for kind, step in last.items():
        speed = f"{speeds[kind]:8.1f} tokens/s" if kind in speeds else ""
        print(f"  {NAMES[kind]:<16} {speed:<17}   {_memory(step)}", flush=True)
    for kind in [*speeds][1:]:
        _judge(f"tokens/s, GT / {NAMES[kind]}", speeds["gt"] / speeds[kind], (row.speed or {}).get(kind), at_least=True)
    for kind in [*last][1:]:
        _judge(f"memory, worker / {NAMES[kind]}", last["gt"].peak_rss / last[kind].peak_rss, memory.get(kind))


def _peers(lora: bool) -> list[str]:
    """The peers whose packages are installed."""
    needs = {"plain": ["peft"] if lora else [], "sft": ["trl", "peft"] if lora else ["trl"]}
    for kind, packages in needs.items():
        if missing := [package for package in packages if find_spec(package) is None]:
            print(f"  {NAMES[kind]}: not measured, {' and '.join(missing)} not installed (pip install -e .[benchmark])")
    return [kind for kind, packages in needs.items() if all(map(find_spec, packages))]


def _measure(kinds: list[str], job: Job, runs: int) -> tuple[dict[str, float], dict[str, Step]]:
    """Tokens per second of each side, and its last step."""
    sides = [Side(kind, job) for kind in kinds]
    try:
        seconds = medians([side.step for side in sides], WARM_UP, runs)
    finally:
        for side in sides:
            side.close()
    losses = {side.kind: side.first_loss or 0.0 for side in sides}
    if max(losses.values()) > min(losses.values()) * (1 + CLOSE):
        print(f"  (the first losses differ: {losses})")
    tokens = job.shapes.batch * job.shapes.tokens
    return {kind: tokens / took for kind, took in zip(kinds, seconds, strict=True)}, {side.kind: side.last for side in sides}


def _memory(step: Step) -> str:
    told = f"peak {step.peak_rss / MIB:7,.0f} MiB"
    if step.peak_tensors:
        told += f" in the worker, {step.peak_tensors / MIB:,.0f} of tensors; client {step.client_rss / MIB:,.0f} MiB"
    return told


def _judge(what: str, ratio: float, bar: float | None, at_least: bool = False) -> None:
    told = f"  {what:<44} {ratio:6.2f}x"
    if bar is not None:
        met = ratio >= bar if at_least else ratio <= bar
        told += f"   bar {bar:g}x   {'met' if met else 'missed'}"
    print(told, flush=True)


# -- the other rows --------------------------------------------------------------------------------------------------------


def start(runs: int) -> None:
    """Print how long train.py takes to its first batch, the tiny model and prepared rows on disk, and as a PyTorch copy."""
    with tempfile.TemporaryDirectory() as folder:
        for script in ("load_weights.py", "prepare_data.py"):
            subprocess.run([sys.executable, EXAMPLE / script, "--runs", folder], check=True, stdout=subprocess.DEVNULL)
        copy = Path(folder) / "train_pytorch.py"
        copy.write_text((EXAMPLE / "train.py").read_text().replace("import gt as torch", "import torch"))
        scripts = [EXAMPLE / "train.py", copy]
        ours, theirs = medians([lambda s=s: _first_batch(s, folder) for s in scripts], 1, runs)  # type: ignore[misc]
    print(f"start: the tiny model, prepared rows, to the first batch; medians of {runs}")
    print(f"  {ours:.2f} s, as a PyTorch copy {theirs:.2f} s")
    _judge("start, GT / PyTorch", ours / theirs, START_BAR)


def _first_batch(script: Path, runs: str) -> float:
    """Seconds from the start of train.py or a copy to its first batch. Raises RuntimeError if there is none."""
    command = [sys.executable, script, "--runs", runs, "--fresh", "--no-eval", "--max-steps", "1"]
    environment = os.environ | ONE_THREAD | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": _path_with_example()}
    began, took = time.perf_counter(), None
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if took is None and line.startswith("  Batch "):
                took = time.perf_counter() - began
    if took is None:
        raise RuntimeError(f"{script.name} ended with {process.returncode} before its first batch")
    return took


def _path_with_example() -> str:
    return os.pathsep.join(filter(None, (str(EXAMPLE), os.environ.get("PYTHONPATH"))))


def real_shapes(_: int) -> None:
    """Print what one step of LoRA on Qwen3-0.6B takes on the worker."""
    job = Job(REAL, lora=True, precision="bf16")
    side = Side("gt", job)
    try:
        seconds = side.step()
    finally:
        side.close()
    print(f"0.6B: LoRA, bf16, {job.shapes.batch} x {job.shapes.tokens} tokens; the first step")
    print(f"  {seconds:.1f} s, {_memory(side.last)}")
    _judge("memory, worker / 6 GB", side.last.peak_rss / WORKER_BAR_BYTES, 1.0)


if __name__ == "__main__":
    main()
