"""The example's scripts, tiny checkpoints and their data."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

EXAMPLE = Path(__file__).parents[3] / "examples" / "qwen3"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "GT_WORKER_THREADS": "1"}  # as in train.sh for a model this small
ENVIRONMENT = {**ONE_THREAD, **os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHON": sys.executable}
Broken = Callable[..., Path]
OpenChat = Callable[..., object]


def run(
    *command: str, folder: Path = EXAMPLE, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    program = [sys.executable] if command[0].endswith(".py") else []
    return subprocess.run(
        [*program, str(folder / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
    )


@pytest.fixture(scope="session")
def scripts() -> ModuleType:
    """The example's scripts as modules, `scripts.train` and so on."""
    before, hook = list(sys.path), sys.excepthook
    sys.path.insert(0, str(EXAMPLE))
    found = ModuleType("scripts")
    for name in ("problems", "folders", "config", "shapes", "rows", "chat", "model", "loss", "make_data", "make_tiny"):
        setattr(found, name, __import__(name))
    for name in ("presets", "encode", "prepared", "packing", "memory", "room", "verify", "load_weights"):
        setattr(found, name, __import__(name))
    for name in ("checkpoint_files", "checkpoints", "lora", "merge", "prepare_data", "options", "optimizers", "progress"):
        setattr(found, name, __import__(name))
    for name in ("evaluation", "train"):
        setattr(found, name, __import__(name))
    sys.path[:], sys.excepthook = before, hook
    return found


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, scripts: ModuleType) -> Path:
    """The tiny checkpoints, the tiny data set and its prepared rows."""
    folder = tmp_path_factory.mktemp("qwen3")
    rows = scripts.make_data.rows()
    for kind in ("qwen3", "qwen2"):
        scripts.make_tiny.make(folder / kind, kind, scripts.make_tiny.texts_of(rows))
    (folder / "data.json").write_text(json.dumps(rows))
    paths = ["--data", str(folder / "data.json"), "--model", str(folder / "qwen3"), "--prepared", str(folder / "prepared")]
    done = run("prepare_data.py", *paths)
    assert "Dataset size: 1000 examples" in done.stdout, done.stderr
    return folder


@pytest.fixture
def broken(made: Path, tmp_path: Path) -> Broken:
    """Makes a checkpoint with changes to config.json (None: key removed) or to its weights."""
    numbers = itertools.count()

    def make(weights: Callable[[dict[str, torch.Tensor]], object] | None = None, **config: object) -> Path:
        folder = shutil.copytree(made / "qwen3", tmp_path / f"broken{next(numbers)}")
        path = folder / "config.json"
        changed = {**json.loads(path.read_text()), **config}
        path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))
        if weights:
            tensors = load_file(folder / "model.safetensors")
            weights(tensors)
            save_file(tensors, folder / "model.safetensors")
        return folder

    return make


@pytest.fixture
def chat(broken: Broken, made: Path, scripts: ModuleType) -> OpenChat:
    """Opens a checkpoint with another template in tokenizer_config.json (None: its own), or with other files."""

    def make(template: object = None, kind: str = "qwen3", **files: str) -> object:
        folder = broken()
        about = json.loads((made / kind / "tokenizer_config.json").read_text())
        if template == "":
            del about["chat_template"]
        elif template:
            about["chat_template"] = template
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
        for name, text in files.items():
            path = folder / f"{name.replace('__', '/')}.jinja"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return scripts.chat.Chat.open(folder, kind)

    return make


def difference(scripts: ModuleType, folder: Path, model: torch.nn.Module | None = None) -> float:
    """Of the logits of a checkpoint (or of its model) from those of `transformers`, as load_weights.py finds it."""
    _, found, names = scripts.load_weights.layout(folder)
    stored = scripts.load_weights.stored_dtype({name: found[name] for name in names.values()})
    return scripts.verify.difference(model or scripts.load_weights.load(folder), scripts.verify.expected(folder, stored))


def row(scripts: ModuleType, output: str, instruction: str = "Say it.", number: int = 1) -> object:
    return scripts.shapes.row_of({"instruction": instruction, "output": output}, number)
