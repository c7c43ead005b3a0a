"""A type checker checks a ported script like the original: `scripts/stubs.py`."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PORTED = """
import gt as torch
import gt.nn.functional as F
from gt import nn
from gt.optim.lr_scheduler import CosineAnnealingLR
from gt.utils.data import DataLoader, Dataset, TensorDataset


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.layers(x))


device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = Net(16).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule, scaler = CosineAnnealingLR(optimizer, T_max=10), torch.amp.GradScaler(enabled=False)
rows: Dataset[tuple[torch.Tensor, ...]] = TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,)))
for x, y in DataLoader(rows, batch_size=16, shuffle=True):
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.scope("forward"):
        loss = F.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    schedule.step()
torch.save(model.state_dict(), "model.pt")
print(torch.linalg.norm(torch.ones(3)).item(), torch.__version__.upper(), torch.debug.tape()[0].op)
torch.files.save_safetensors(model.state_dict(), "model.safetensors")
reveal_type(torch.ones(3))
reveal_type(nn.Linear(2, 2))
torch.ones(3).no_such_method()
"""


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and its stubs, laid out as if installed."""
    folder = tmp_path_factory.mktemp("typed")
    for name in ("gt", "gt-stubs"):
        shutil.copytree(ROOT / "src" / name, folder / "gt", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_ported_script_has_the_types_of_torch(typed: Path, pytestconfig: pytest.Config) -> None:
    """The only error is the one in the last line, as with torch's types."""
    script = typed / "ported.py"
    script.write_text(PORTED)
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("mypy")  # torch alone takes half a minute
    options = ["--config-file=", f"--cache-dir={cache}", "--follow-imports=silent"]
    command = [sys.executable, "-m", "mypy", *options, script.name]
    environment = {**os.environ, "MYPYPATH": str(typed)}
    said = subprocess.run(command, cwd=typed, env=environment, capture_output=True, text=True, timeout=240)
    notes = [line for line in said.stdout.splitlines() if "note: Revealed" in line]
    assert [line.split('"')[1] for line in notes] == ["torch._tensor.Tensor", "torch.nn.modules.linear.Linear"], said
    errors = [line for line in said.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, said.stdout
    assert '"Tensor" has no attribute "no_such_method"' in errors[0]


@pytest.mark.skipif(not torch.__version__.startswith("2.13.0"), reason="the stubs are those of the pinned torch")
def test_the_stubs_are_what_the_script_writes() -> None:
    stubs = runpy.run_path(str(ROOT / "scripts" / "stubs.py"))["stubs"]
    folder = ROOT / "src" / "gt-stubs"
    there = {path.relative_to(folder): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert there == stubs()
