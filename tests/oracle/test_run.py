"""`gt run`: a program that was not changed does what it does with Python, on the workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gt import cli
from gt.errors import ConfigError, RefusedError
from gt.run import command, importlib_bootstrap, notebook
from tests.cluster.conftest import serving
from tests.conftest import side_by_side

GT = [sys.executable, "-m", "gt", "run"]
Start = Callable[..., subprocess.CompletedProcess[str]]

LIBRARY = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        import torch.nn.functional as F

        return F.gelu(self.layer(x)) * self.scale + torch.arange(4.0)

def normalised(x):
    return x.to("cpu") / x.norm()
"""
SCRIPT = """
import importlib, multiprocessing, os, pickle, sys, types, typing
from dataclasses import dataclass
from unittest.mock import MagicMock

import dill
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForCausalLM, Qwen3Config

import library


@dataclass
class Batch:
    x: torch.Tensor
    y: Tensor | None = None


class Double(nn.Module):
    def forward(self, x: typing.Optional[torch.Tensor]) -> torch.Tensor:
        return x * 2


def place(queue):
    import torch

    queue.put((__name__, torch.get_default_device().type, library.Block().layer.weight.device.type))


def main():
    print(__name__, __file__, sys.argv, sys.path[0], torch.__name__, torch.__version__, torch.__file__, F.__name__[-13:])
    torch.manual_seed(0)
    block = library.Block()
    model = nn.Sequential(block, Double())
    x = torch.randn(8, 4)
    loss = model(x).pow(2).mean() + library.normalised(x).sum()
    loss.backward()
    print(loss.item(), block.layer.weight.grad.tolist(), block)
    print(isinstance(loss, torch.Tensor), isinstance(loss, sys.modules["torch"].Tensor), Batch(x).x.equal(x))
    print(importlib.import_module("torch.nn").Linear == nn.Linear, importlib.import_module(".nn", "torch") is torch.nn)
    print(nn.__name__, repr(F), nn.__package__, nn.__file__, nn.__spec__.name)
    sys.modules["torch.mocked"], sys.modules["torch.stub"] = MagicMock(name="mocked"), types.ModuleType("torch.stub")
    from torch.mocked import anything
    from torch.stub import __name__ as stub
    torch.number = 3
    from torch import number
    print(anything._mock_name, stub, number, sys.modules["torch"].number, torch.nn.__dict__["Softmax"] == nn.Softmax)
    print(dill.loads(dill.dumps((nn, torch)))[1] is torch, dill.loads(dill.dumps(Double()))(x[0]).equal(x[0] * 2))
    print(getattr(__import__("torch.nn"), "nn") is nn, typing.get_type_hints(Batch)["x"] == torch.Tensor)
    array = np.arange(8.0)
    print(torch.from_numpy(array).mul(2).numpy(), pickle.loads(pickle.dumps(model)).state_dict()["0.scale"].tolist())
    for rows, in DataLoader(TensorDataset(torch.arange(6.0)), batch_size=4, shuffle=True, num_workers=1):
        print(rows.tolist(), rows.add(torch.ones(len(rows))).tolist())

    config = Qwen3Config(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=1, head_dim=8)
    language_model = AutoModelForCausalLM.from_config(config)
    ids = torch.arange(6).reshape(1, 6)
    print(language_model(ids, labels=ids).loss.item())
    print(language_model.generate(ids, max_new_tokens=4, do_sample=False).tolist())
    language_model.save_pretrained("saved")
    again = AutoModelForCausalLM.from_pretrained("saved")
    print(torch.equal(again(ids).logits, language_model(ids).logits), again.device.type == x.device.type)

    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=place, args=(queue,))
    process.start()
    found = [x.device.type, block.scale.device.type, language_model.device.type, *queue.get()]
    process.join()
    with open("places", "w") as file:
        print(*found, file=file)
    print("done", process.exitcode)


if __name__ == "__main__":
    main()
    try:
        from torch.nn import nothing
    except ImportError as error:
        print(error)
    raise KeyError(nn.Linear.__name__)
"""


def python(*arguments: str, folder: Path, program: list[str] = GT, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", **environment}
    return subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=240, cwd=folder, env=settings)


def traceback_in(text: str) -> list[str]:
    """Without what libraries say before it, such as how fast they write."""
    return text[text.index("Traceback") :].splitlines()


def files(folder: Path, **sources: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, source in sources.items():
        path = folder / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    return folder


def test_a_script_does_what_it_does_with_python(tmp_path: Path) -> None:
    """What it prints, its exit status, its traceback; and its tensors, those of its libraries, and those of a process that
    it spawns, are remote."""
    script = files(tmp_path / "files", script=SCRIPT, library=LIBRARY) / "script.py"
    run = partial(python, str(script), "--option", "-m", "value")
    ours, plain = side_by_side(
        partial(run, folder=tmp_path / "ours"), partial(run, folder=tmp_path / "plain", program=[sys.executable])
    )
    assert plain.stdout.endswith("cannot import name 'nothing' from 'torch.nn' (" + torch.nn.__file__ + ")\n"), plain.stderr
    assert (ours.stdout, ours.returncode) == (plain.stdout, 1), ours.stderr
    assert traceback_in(ours.stderr) == traceback_in(plain.stderr)
    assert (tmp_path / "ours" / "places").read_text() == "remote remote remote __mp_main__ remote remote\n"
    assert (tmp_path / "plain" / "places").read_text() == "cpu cpu cpu __mp_main__ cpu cpu\n"


MODULE = """
import sys, warnings
from . import other
print(__name__, __package__, sys.argv, sys.path[0], other.__name__, sorted(n for n in sys.modules if n.startswith("sitec")))
try:
    from . import failing
except ValueError as error:
    sys.exit(other.status)
"""
OTHER = "import warnings\nwarnings.warn('old', DeprecationWarning, stacklevel=2)\nstatus = 3\n"


def test_a_module_and_what_it_imports_are_as_with_python(tmp_path: Path) -> None:
    """Also the line that a warning is about, and the user's own `sitecustomize`."""
    folder = files(
        tmp_path / "files",
        package____init__="",
        package____main__=MODULE,
        package__other=OTHER,
        package__failing="raise ValueError",
        own__sitecustomize="print('customised')",
    )
    path = os.pathsep.join([str(folder / "own"), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = partial(python, "-m", "package", "-x", folder=folder, PYTHONPATH=path, PYTHONWARNINGS="default")
    ours, plain = run(), run(program=[sys.executable])
    assert plain.stdout.startswith("customised\n__main__ package "), plain.stderr
    said = ours.stdout.removeprefix("customised\n")  # the command `gt` is Python too
    assert (said, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, 3)
    assert "__main__.py:3: DeprecationWarning: old" in ours.stderr
    code = partial(python, "-c", "import sys, nowhere", "--workers", "2", folder=folder)
    assert code().stderr == code(program=[sys.executable]).stderr
    missing = partial(python, "nothing.py", folder=folder)
    assert (missing().stderr, missing().returncode) == (missing(program=[sys.executable]).stderr, 2)


REGRESSION = """
import sys
import torch
from torch import nn

x = torch.arange(32.0).reshape(8, 4) % 5 - 2
y = x @ torch.tensor([1.0, -2.0, 0.5, 3.0])
model = nn.Linear(4, 1)
nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
for step in range(3):
    loss = (model(x).squeeze(1) - y).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item(), model.weight.grad.tolist())
if "gt" in sys.modules:
    print(len(sys.modules["gt"].debug.where(x).workers), file=sys.stderr)
"""
"""Whose sums are exact, so that shares of them may be added in any order."""
CONFIG = 'mesh: {dp: 2}\nparams: {"**": {dp: fully_shard}}\ninputs: {"*": {dp: shard(0)}}\n'


def test_a_sharding_file_and_a_shared_service_change_no_number(tmp_path: Path) -> None:
    folder = files(tmp_path / "files", script=REGRESSION)
    (folder / "sharding.yaml").write_text(CONFIG)
    run = partial(python, "script.py", folder=folder)
    with serving("--workers", "2") as service:
        plain, embedded, shared = side_by_side(
            partial(run, program=[sys.executable]),
            partial(run, program=[*GT, "--workers", "2"], GT_CONFIG="sharding.yaml"),
            partial(run, GT_ADDRESS=service.address, GT_CONFIG="sharding.yaml"),
        )
    assert plain.stdout.startswith("0 "), plain.stderr
    assert (embedded.stdout, embedded.stderr) == (plain.stdout, "2\n")
    assert (shared.stdout, shared.stderr) == (plain.stdout, "2\n")


def test_what_cannot_be_done_right_is_refused(tmp_path: Path) -> None:
    many = python("-c", "import torch", folder=tmp_path, TORCHELASTIC_RUN_ID="1", WORLD_SIZE="2")
    assert "torchrun has started 2 processes of this program" in many.stderr
    assert "GT_CONFIG places its tensors on several workers" in many.stderr
    script = files(tmp_path / "files", gt="", script="import torch") / "script.py"
    hidden = python(str(script), folder=tmp_path)
    assert re.search(r"ImportError: gt run: this program's module `gt` \(.*files/gt.py\) hides GT's", hidden.stderr)
    other = python("-u", "script.py", folder=tmp_path)
    assert other.stderr == ("gt: run: -u: expected a script, -m MODULE or -c CODE; Python's other options have variables\n")
    with pytest.raises(ConfigError, match=r"the service that GT_ADDRESS names \(ipc:///a\) has its own"):
        command.prepared({"GT_ADDRESS": "ipc:///a"}, 2)


def test_a_program_is_given_its_own_arguments_and_the_number_of_workers() -> None:
    def parsed(*arguments: str) -> tuple[int | None, list[str]]:
        given = cli.parser().parse_args(cli._divided(["run", *arguments]))
        return given.workers, given.command_line

    assert parsed("a.py", "--workers", "3", "--", "-h") == (None, ["a.py", "--workers", "3", "--", "-h"])
    assert parsed("--workers", "2", "-m", "a", "-h") == (2, ["-m", "a", "-h"])
    assert parsed("--workers=2", "--", "-c", "pass") == (2, ["-c", "pass"])
    made = command.prepared({"PYTHONPATH": f"{command.STARTUP}{os.pathsep}/a", "GT_CONFIG": "x"}, 2)
    assert made == {
        "PYTHONPATH": f"{command.STARTUP}{os.pathsep}/a", "GT_CONFIG": "x", "GT_WORKERS": "2", "GT_RUN": sys.prefix
    }  # fmt: skip


def test_the_hook_gives_torch_itself_to_the_libraries_of_its_table() -> None:
    for library in importlib_bootstrap.PLAIN:
        assert not importlib_bootstrap.is_given_gt({"__name__": f"{library}.part"})
    assert importlib_bootstrap.is_given_gt({"__name__": "torchlike"})
    assert importlib_bootstrap.is_given_gt({"__name__": "__main__"})


CELLS = """
import importlib, os, sys

importlib.import_module("gt").load_ipython_extension(None)
import torch

print(torch.ones(2).device, torch.nn.Linear(2, 2).weight.device, torch.ones(2).sum().item())
print(os.environ["GT_RUN"] == sys.prefix, os.environ["PYTHONPATH"].split(os.pathsep)[0])
"""


def test_a_notebook_loads_gt_before_torch_or_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the processes that it starts."""
    late = SimpleNamespace(torch=torch)
    monkeypatch.setitem(sys.modules, "cells_library.part", late)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match=r"torch was imported before, by .*cells_library.*; restart the kernel"):
        notebook.load()
    run = python("-c", CELLS, folder=tmp_path, program=[sys.executable])
    said = ["remote:0 remote:0 2.0", f"True {command.STARTUP}"]
    assert run.stdout.splitlines() == said, run.stderr
