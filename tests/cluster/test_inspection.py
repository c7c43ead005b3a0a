"""`gt explain` and `gt check` on a small program, with figures computed by hand."""

from __future__ import annotations

import functools
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gt.cli import main
from tests.conftest import side_by_side

NET = """
import sys
import gt as torch

class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(32))
    def forward(self, x):
        return torch.tanh(x * self.weight)

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pre, self.fc1, self.fc2 = Scaled(), torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(self.pre(x))))

torch.manual_seed(0)
model = Net()
optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
if "--evaluates" in sys.argv:
    with torch.no_grad():
        model(torch.randn(8, 32))
for step in range(3):
    with torch.scope("head"):
        loss = model(torch.randn(8, 32)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print("all steps were made")
"""
LINEAR = """
import os, sys
import gt as torch

model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), foreach=False)
loss = model(torch.arange(16.0).view(4, 4)).sum()
loss.backward()
if "--wrong" in sys.argv and os.environ.get("GT_CONFIG"):
    model.weight.grad.mul_(1.001)
optimizer.step()
print("all steps were made")
"""
TP2 = """
mesh: {tp: 2}
params:
  "fc1.*": {tp: shard(0)}
  "fc2.weight": {tp: shard(1)}
  "**": {tp: replicate}
"""
FSDP2 = """
mesh: {dp: 2}
params:
  "**": {dp: fully_shard}
inputs:
  "*": {dp: shard(0)}
"""
FULL = (32 + 64 * 32 + 64 + 32 * 64 + 32) * 4
TP_EACH = (32 + 32 * 32 + 32 + 32 * 32 + 32) * 4
"""Bytes of the parameters, and of those on a worker."""
HIDDEN = 8 * 32 * 4
"""Bytes of what enters fc1 and of what leaves fc2."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("inspected")
    (made / "net.py").write_text(NET)
    (made / "linear.py").write_text(LINEAR)
    (made / "tp2.yaml").write_text(TP2)
    (made / "fsdp2.yaml").write_text(FSDP2)
    return made


def gt(folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gt", command, *arguments], capture_output=True, text=True, cwd=folder, timeout=120
    )


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.fixture(scope="module")
def explained(folder: Path) -> list[subprocess.CompletedProcess[str]]:
    program = ("--", sys.executable, "net.py")
    return side_by_side(
        lambda: gt(folder, "explain", "--config", "tp2.yaml", "--html", "out.html", *program, "--evaluates"),
        lambda: gt(folder, "explain", "--config", "fsdp2.yaml", *program),
    )


def test_a_tensor_parallel_step_is_explained(explained: list[subprocess.CompletedProcess[str]]) -> None:
    ran = explained[0]
    assert ran.returncode == 0, ran.stderr
    assert "all steps were made" not in ran.stderr
    assert "every value that the program reads from a worker is zero" in ran.stderr
    shown = words(ran.stdout)
    assert f"Parameters and buffers: {FULL:,} bytes, {TP_EACH:,} on each worker" in ran.stdout
    assert ["fc1", "weight", "float32", "64x32", "tp:", "shard(0)", "32x32", "4,096", "tp2.yaml:4"] in shown
    assert ["fc2", "weight", "float32", "32x64", "tp:", "shard(1)", "32x32", "4,096", "tp2.yaml:5"] in shown
    assert ["fc2", "bias", "float32", "32", "tp:", "replicate", "32", "128", "tp2.yaml:6"] in shown
    assert f"forward head all-reduce tp activations 1 1 {HIDDEN:,} aten::pow.Tensor_Scalar".split() in shown
    assert f"backward head/pre all-reduce tp activations 1 1 {HIDDEN:,} aten::tanh_backward".split() in shown
    assert f"in all 2 2 {2 * HIDDEN:,}".split() in shown
    at_end = {" ".join(line[:-6]): line[-6] for line in shown if len(line) > 6}
    assert at_end["parameters"] == at_end["gradients"] == f"{TP_EACH:,}"
    assert at_end["optimizer state"] == f"{2 * TP_EACH:,}"


def test_a_fully_sharded_step_is_explained(explained: list[subprocess.CompletedProcess[str]]) -> None:
    ran = explained[1]
    assert ran.returncode == 0, ran.stderr
    shown = words(ran.stdout)
    assert f"Parameters and buffers: {FULL:,} bytes, {FULL // 2:,} on each worker" in ran.stdout
    assert ["pre", "weight", "float32", "32", "dp:", "fully_shard", "16", "64", "fsdp2.yaml:4"] in shown
    assert ["argument", "x", "float32", "8x32", "dp:", "shard(0)", "fsdp2.yaml:6"] in shown
    assert f"forward head/pre all-gather dp parameters 1 5 {FULL:,} aten::mul.Tensor".split() in shown
    assert any(line[:8] == f"optimizer (root) reduce-scatter dp gradients 1 5 {FULL:,}".split()[:8] for line in shown)
    assert any(line[:2] == ["parameters", f"{FULL // 2:,}"] for line in shown)
    assert any(line[:3] == ["optimizer", "state", f"{FULL:,}"] for line in shown)


class Reader(HTMLParser):
    """The texts of a page, its unclosed tags, and whether it loads anything."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [name for name, _ in attrs if name in ("src", "href", "data")]
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_has_the_same_and_loads_nothing(explained: list[subprocess.CompletedProcess[str]], folder: Path) -> None:
    page, read = (folder / "out.html").read_text(), Reader()
    read.feed(page)
    assert (read.open, read.loads) == ([], [])
    assert "url(" not in page
    assert "@import" not in page
    figures = {f"{TP_EACH:,}", f"{2 * TP_EACH:,}", f"{2 * HIDDEN:,}"}
    assert {"rank 0", "rank 1", "tp=0", "tp=1", "tp: shard(1)", "tp2.yaml:5", *figures} <= set(read.texts)


def test_a_step_is_checked_and_the_first_tensor_that_differs_is_named(folder: Path) -> None:
    right, wrong = side_by_side(
        lambda: gt(folder, "check", "--config", "fsdp2.yaml", "--", sys.executable, "linear.py"),
        lambda: gt(folder, "check", "--config", "fsdp2.yaml", "--", sys.executable, "linear.py", "--wrong"),
    )
    assert right.returncode == 0, right.stderr
    assert "The worst of 4 tensors, of which none differ" in right.stdout
    assert wrong.returncode == 1, wrong.stderr
    assert "The worst of 4 tensors, of which 2 differ" in wrong.stdout
    assert wrong.stdout.splitlines()[-1] == "weight (gradient) differs: by 1.0e-03 relative to one worker; allowed: 1e-05"
    assert "all steps were made" not in right.stderr + wrong.stderr


# -- what goes wrong before any step: no program of these imports torch ----------------------------------------------------


@pytest.mark.parametrize("command", ["explain", "check"])
def test_a_program_that_fails_or_never_trains(command: str, folder: Path) -> None:
    run = functools.partial(gt, folder, command, "--config", "tp2.yaml", "--", sys.executable, "-c")
    failed, idle, missing = side_by_side(
        lambda: run("print('hello'); raise SystemExit(7)"),
        lambda: run("pass"),
        lambda: gt(folder, command, "--config", "tp2.yaml", "--", "./no-such-program"),
    )
    assert failed.returncode == 7
    assert "hello" in failed.stderr
    assert "the program failed, with exit status 7" in failed.stderr.splitlines()[-1]
    assert idle.returncode == 1
    assert "without a step of an optimizer" in idle.stderr.splitlines()[-1]
    assert (missing.returncode, missing.stderr.splitlines()[-1]) == (127, "gt: ./no-such-program: No such file or directory")


@pytest.mark.parametrize("command", ["explain", "check"])
def test_a_wrong_file_is_refused_as_everywhere(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text('mesh: {tp: 2}\nparams:\n  "**": {tp: shrad(0)}\n')
    assert main([command, "--config", str(wrong), "--", "python", "net.py"]) == 1
    assert capsys.readouterr().err.startswith(
        f"gt: {wrong}:3: params '**', axis 'tp': unknown placement 'shrad(0)'; legal: replicate, shard(DIM)"
    )
    assert main([command, "--config", str(tmp_path / "wrogn.yaml"), "--", "python", "net.py"]) == 1
    assert "did you mean wrong.yaml?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--steps", "x"]])
def test_a_wrong_step_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", "--config", "tp2.yaml", *arguments, "--", "python", "net.py"])
    assert "not the number of a step" in capsys.readouterr().err
