"""The memory that is computed before a run is the memory that it takes; a run that cannot fit is told what would help."""

from __future__ import annotations

import argparse
import gc
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import gt
from tests.oracle.qwen3.conftest import EXAMPLE
from tests.oracle.qwen3.test_train import run_of

COUNTED_FROM = 1 << 16
"""Smaller storages do not count in a worker's peak."""
SHAPES = {
    "vocabulary": (8192, 64, 2, 4, 2, 32, 128, 1e6, 1e-6, True),
    "wide": (512, 64, 2, 4, 4, 16, 640, 1e6, 1e-6, False),
    "deep": (512, 64, 6, 8, 4, 16, 192, 1e6, 1e-6, True),
}
ROWS = {"vocabulary": "2 256", "wide": "4 128", "deep": "1 512"}
"""Rows of a batch, and tokens of a row."""
Given = Callable[..., argparse.Namespace]


@pytest.fixture
def given_of(scripts: ModuleType) -> Given:
    return lambda *options: scripts.options.parse(None, "train.py", ["--data", "x", *options])


def batch_of(scripts: ModuleType, config: object, given: argparse.Namespace) -> object:
    """Rows as long as they may be, in which all tokens are targets but the last, for which there is none."""
    shape = given.batch_size, given.max_tokens
    ids = np.random.default_rng(0).integers(0, config.vocab_size, shape)
    targets = np.roll(ids, -1, 1)
    targets[:, -1] = scripts.prepared.IGNORED
    if not given.pack:
        return scripts.prepared.Batch(ids, targets)
    positions, documents = (np.broadcast_to(f(np.arange(shape[1]), 64), shape).copy() for f in (np.mod, np.floor_divide))
    return scripts.prepared.Batch(ids, targets, positions, documents)


def opened(scripts: ModuleType, config: object, given: argparse.Namespace, stored: torch.dtype) -> torch.nn.Module:
    """As `train.open_model`, of weights that are made on the worker."""
    with torch.device("remote"):
        model = scripts.model.Qwen3(config).to(stored)
    if given.lora:
        scripts.lora.add_adapter(model, scripts.train.as_lora(given))
    model.checkpointing = given.activation_checkpointing
    return model


def peak_of_a_step(scripts: ModuleType, config: object, given: argparse.Namespace, stored: torch.dtype) -> int:
    """The most bytes that the worker held in a step whose optimizer had its state already, besides those of other tests."""
    gc.collect()
    torch.remote.reset_peak_memory_stats()
    others = torch.remote.max_memory_allocated()
    model = opened(scripts, config, given, stored)
    stepper = scripts.optimizers.Stepper(scripts.train.trained(model), given)
    for parameter in stepper.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    stepper.step(0.0)
    batches = [batch_of(scripts, config, given)] * given.accumulate
    held = [*model.parameters(), *(stepper.masters[name] for name, _ in stepper._rounded())]
    held += [t for kind in scripts.optimizers.STATE[given.optimizer] for t in stepper.state()[kind].values()]
    before = gt.debug.stats().tensor_bytes
    torch.remote.reset_peak_memory_stats()
    scripts.train.accumulate(model, batches, given.precision == "bf16-autocast")
    stepper.step(1.0)
    peak = torch.remote.max_memory_allocated()
    assert peak > before, "too small to be measured"
    return peak - others + sum(t.nbytes for t in held if t.nbytes < COUNTED_FROM)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        *((shape, f"--precision {name}") for shape in SHAPES for name in ("fp32", "bf16-autocast", "bf16")),
        ("vocabulary", "--activation-checkpointing"),
        ("wide", "--activation-checkpointing --precision bf16"),
        ("wide", "--activation-checkpointing --precision bf16-autocast"),
        ("deep", "--optimizer sgd"),
        ("vocabulary", "--optimizer sgd --precision bf16"),
        ("wide", "--accumulate 2 --precision bf16"),
        ("vocabulary", "--accumulate 2"),
        ("deep", "--pack"),
        ("wide", "--lora"),
        ("deep", "--lora --lora-targets q_proj,v_proj"),
        ("wide", "--lora --lora-dropout 0.1"),
        ("deep", "--lora --precision bf16"),
        ("vocabulary", "--lora --precision bf16 --activation-checkpointing"),
        ("wide", "--lora --precision bf16-autocast"),
    ],
)
def test_a_step_takes_what_was_computed(shape: str, options: str, scripts: ModuleType, given_of: Given) -> None:
    config = scripts.config.Config(*SHAPES[shape])
    rows, tokens = ROWS[shape].split()
    size = ["--batch-size", rows, "--max-tokens", tokens, *(["--lora-rank", "32"] if "--lora" in options else [])]
    given = given_of("--model", "x", *size, *options.split())
    stored = torch.bfloat16 if given.precision == "bf16" else torch.float32
    found = scripts.memory.needed(config, given, stored.itemsize)
    assert found.peak == pytest.approx(peak_of_a_step(scripts, config, given, stored), rel=0.1)


def resident_bytes(proc: Path, name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", (proc / "status").read_text())[1]) * 1024


@pytest.mark.parametrize("options", ["--precision fp32", "--lora"])
def test_the_workers_process_does_not_grow_with_the_steps(options: str, scripts: ModuleType, given_of: Given) -> None:
    """Ten steps more take at most what the tensors of one step take."""
    config = scripts.config.Config(*SHAPES["wide"])
    given = given_of("--model", "x", "--batch-size", "4", "--max-tokens", "128", *options.split())
    model = opened(scripts, config, given, torch.float32)
    stepper = scripts.optimizers.Stepper(scripts.train.trained(model), given)
    batch = batch_of(scripts, config, given)

    def steps(count: int) -> None:
        for _ in range(count):
            scripts.train.accumulate(model, [batch], False)
            stepper.step(1.0)
        torch.remote.synchronize()

    steps(2)
    (worker,) = gt.debug.where(next(model.parameters())).workers
    proc, held = Path("/proc") / str(worker.pid), gt.debug.stats().tensor_bytes
    torch.remote.reset_peak_memory_stats()
    (proc / "clear_refs").write_text("5")  # the peak of the process is what it has now
    before = resident_bytes(proc, "VmRSS")
    steps(10)
    assert resident_bytes(proc, "VmHWM") - before < gt.debug.stats().peak_tensor_bytes - held


@pytest.mark.parametrize("options", ["--precision fp32 --optimizer sgd", "--precision bf16", "--lora"])
def test_a_checkpoint_is_a_copy_of_what_was_computed(options: str, made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    run = run_of(scripts, made, tmp_path, "--max-steps", "1", "--save-every", "1", *options.split())
    checkpoints = scripts.checkpoints.Checkpoints(run.given.checkpoints, 1)
    training = scripts.train.Training(run, scripts.train.open_model(run, None), checkpoints, run.begin())
    training.steps(scripts.train.Interrupts())
    written = sum(path.stat().st_size for path in checkpoints.path(1).rglob("*.safetensors"))
    found = scripts.memory.needed(scripts.config.Config.from_json(run.source / "config.json"), run.given, 4)
    assert found.snapshot == pytest.approx(written, rel=0.02)  # files have headers


def test_the_presets_are_the_published_models(made: Path, scripts: ModuleType, given_of: Given) -> None:
    presets = scripts.presets.PRESETS
    published = [1_017_344, 596_049_920, 1_720_574_976, 4_022_468_096, 8_190_735_360]
    assert [scripts.memory.Sizes(preset.config).parameters for preset in presets.values()] == published
    generated = scripts.config.Config.from_json(made / "qwen3" / "config.json")
    assert scripts.memory.Sizes(generated).parameters == published[0]
    assert (generated.head_dim, generated.vocab_size) == (presets["tiny"].config.head_dim, presets["tiny"].config.vocab_size)


def test_a_preset_gives_a_model_and_defaults_that_flags_win_over(given_of: Given) -> None:
    given = given_of("--preset", "4B")
    assert (given.model, given.precision, given.batch_size) == ("Qwen/Qwen3-4B", "bf16", 1)
    given = given_of("--preset", "4B", "--precision", "fp32", "--model", "my/copy")
    assert (given.model, given.precision, given.batch_size) == ("my/copy", "fp32", 1)
    assert given_of("--preset", "tiny").tiny_model
    assert given_of("--preset", "tiny").batch_size == given_of().batch_size == 16


def table(scripts: ModuleType, given_of: Given) -> list[str]:
    """README.md's table of the presets, computed."""
    lines = []
    for name, preset in scripts.presets.PRESETS.items():
        cells = [f"{name:8}"]
        for options in ("--precision fp32", "--precision bf16", "--lora", "--lora --activation-checkpointing"):
            given = given_of("--preset", name, *options.split())
            found = scripts.memory.needed(preset.config, given, 4 if name == "tiny" else 2)
            cells.append(f"{found.peak / 1e9:.1f} + {found.snapshot / 1e9:.1f}")
        lines.append("".join(f"{cell:16}" for cell in cells).rstrip())
    return lines


def test_the_readme_says_what_the_presets_need(scripts: ModuleType, given_of: Given) -> None:
    text = (EXAMPLE / "README.md").read_text()
    assert "\n".join(f"    {line}" for line in table(scripts, given_of)) in text


@pytest.mark.parametrize("name", ["0.6B", "1.7B", "8B"])
@pytest.mark.parametrize("share", [1e9, 3e9, 8e9, 24e9, 80e9])
def test_whatever_is_suggested_fits(share: float, name: str, scripts: ModuleType, given_of: Given) -> None:
    config, options = scripts.presets.PRESETS[name].config, ["--preset", name, "--precision", "fp32"]
    room = scripts.room.Room(share, 1)
    found = scripts.memory.needed(config, given_of(*options))
    if room.holds(found):
        verdict = scripts.room.check(config, given_of(*options), 2, room)
        assert verdict.text == f"Memory: {found}; {room}"
        assert verdict.copies == (found.peak + found.snapshot <= share) == ("training waits" not in str(verdict))
        return
    with pytest.raises(scripts.problems.UserError, match=rf"^Qwen/Qwen3-{name}: needs up to ") as caught:
        scripts.room.check(config, given_of(*options), 2, room)
    told = str(caught.value).partition(" free")[2]
    for way in re.findall(r"--[^:]*?(?=, or |$)", told):
        assert room.holds(scripts.memory.needed(config, given_of(*options, *way.split()))), way
    if more := re.search(r"(\d+) such workers", told):
        assert found.of_each(int(more[1])) <= share < found.of_each(int(more[1]) - 1)
    assert more


def test_what_does_not_fit_is_told_before_anything_is_downloaded(
    scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object) -> None:
        raise AssertionError("it began to download")

    monkeypatch.setattr(scripts.room, "available", lambda: scripts.room.Room(24e9, 1))
    monkeypatch.setattr(scripts.load_weights, "resolve", resolve)
    monkeypatch.setattr("sys.argv", ["load_weights.py", "--preset", "1.7B"])
    with pytest.raises(scripts.problems.UserError) as caught:
        scripts.load_weights.main()
    assert str(caught.value) == (
        "Qwen/Qwen3-1.7B: needs up to 28.4 GB (weights 3.4 GB, optimizer 20.6 GB, gradients and activations 4.3 GB), and"
        " 24.1 GB while a checkpoint is written, the worker has 24.0 GB free: use --lora, or 2 such workers and a sharding"
        " file that divides everything"
    )


def test_there_is_what_the_worker_says(scripts: ModuleType) -> None:
    found = scripts.room.available()
    assert found.workers == 1
    assert found.share == pytest.approx(torch.remote.mem_get_info()[0], rel=0.2)  # of a machine that others use too
