"""Scripts that use heavy libraries (`./test --libraries` installs them) print the same with and without GT."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Run, side_by_side
from tests.oracle.test_facade import ported
from tests.oracle.test_run import python

SCRIPTS = sorted((Path(__file__).parent / "libraries").glob("*.py"))


def need(*libraries: str) -> None:
    """Skip a test where a library is not installed; importing it here would take seconds."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"needs {library}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_prints_the_same_ported_and_beside_gt(script: Path, run_python: Run) -> None:
    need(script.stem.partition("_")[0])
    source = script.read_text()
    ways = (ported(source), f"import gt\n{source}", source)
    remote, beside, local = side_by_side(*(partial(run_python, way) for way in ways))
    assert local.returncode == 0, local.stderr
    assert remote.stdout == local.stdout, remote.stderr
    assert beside.stdout == local.stdout, beside.stderr


QUICK_STARTS = {
    "trainer": ("accelerate",),
    "loop": ("accelerate",),
    "finetune": ("trl",),
    "autoencoder": ("lightning",),
    "images": ("diffusers",),
    "graphs": ("torch_geometric",),
    "vision": ("timm", "torchvision"),
}
"""Programs as in the first pages of libraries' documentation, with tiny models, and the libraries that they need."""


@pytest.mark.parametrize("name", QUICK_STARTS)
def test_a_quick_start_prints_the_same_by_gt_run(name: str, tmp_path: Path) -> None:
    need(*QUICK_STARTS[name])
    script, log = str(Path(__file__).parent / "libraries" / "quick_starts" / f"{name}.py"), tmp_path / "log.jsonl"
    ours, plain = side_by_side(
        partial(python, script, folder=tmp_path / "ours", GT_INSTRUCTION_LOG=str(log)),
        partial(python, script, folder=tmp_path / "plain", program=[sys.executable]),
    )
    assert plain.returncode == 0, plain.stderr
    assert ours.stdout == plain.stdout, ours.stderr
    assert log.read_text().count("backward") > 40


BESIDE = """
import gt, torch
from accelerate import Accelerator
print(next(Accelerator().prepare(torch.nn.Linear(2, 2)).parameters()).device)
"""
LIGHTNING_BESIDE = """
import gt, torch
import lightning as L
from torch.utils.data import DataLoader, TensorDataset

class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, i):
        self.seen = batch[0].device.type, self.layer.weight.device.type
        return self.layer(batch[0]).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.1)

quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
for accelerator in ("auto", "remote", "cpu"):
    model, trainer = Model(), L.Trainer(max_epochs=1, accelerator=accelerator, **quiet)
    trainer.fit(model, DataLoader(TensorDataset(torch.rand(8, 4)), 4))
    state = {values["exp_avg"].device.type for values in trainer.optimizers[0].state.values()}
    print(accelerator, *model.seen, model.layer.weight.device.type, *state)
print(L.Fabric().setup(torch.nn.Linear(2, 2)).weight.device.type)
try:
    L.Trainer(accelerator="remote", devices=2, **quiet)
except ValueError as error:
    print(error)
"""


def test_accelerate_takes_the_workers_as_it_would_a_gpu_unless_told_otherwise(run_python: Run) -> None:
    need("accelerate")
    told, otherwise = side_by_side(
        partial(run_python, BESIDE), partial(run_python, BESIDE.replace("Accelerator()", "Accelerator(cpu=True)"))
    )
    assert (told.stdout, otherwise.stdout) == ("remote:0\n", "cpu\n"), told.stderr + otherwise.stderr


def test_lightning_takes_the_workers_as_it_would_a_gpu_unless_told_otherwise(run_python: Run) -> None:
    need("lightning")
    run = run_python(LIGHTNING_BESIDE)
    assert run.stdout.splitlines() == [
        "auto remote remote remote remote",
        "remote remote remote remote remote",
        "cpu cpu cpu cpu cpu",
        "remote",
        "devices=2: there is one remote device; GT_CONFIG places its tensors on workers",
    ], run.stderr
