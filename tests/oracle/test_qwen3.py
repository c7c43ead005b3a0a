"""The main job: the model against `transformers`, the pipeline as a person runs it, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "qwen3"


def run(*command: str, folder: Path = EXAMPLE) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(folder / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoints and the prepared tiny data set."""
    folder = tmp_path_factory.mktemp("qwen3")
    for kind in ("qwen3", "qwen2"):
        assert run("make_tiny.py", str(folder / kind), "--kind", kind).returncode == 0
    assert run("make_data.py", str(folder / "data.json")).returncode == 0
    done = run(
        "prepare_data.py",
        "--data",
        str(folder / "data.json"),
        "--model",
        str(folder / "qwen3"),
        "--out",
        str(folder / "prepared"),
    )
    assert "Dataset size: 1000 examples" in done.stdout, done.stderr
    return folder


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_the_forward_pass_is_transformers(kind: str, made: Path) -> None:
    done = run("load_weights.py", "--model", str(made / kind))
    assert "Forward pass verification PASSED" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_twenty_steps_give_the_losses_of_local_torch_to_the_bit(optimizer: str, made: Path, tmp_path: Path) -> None:
    """As a person would: copy the files, change the import line, run both."""
    for script in EXAMPLE.glob("*.py"):
        shutil.copy(script, tmp_path)
    for name in ("model.py", "train.py"):
        source = (tmp_path / name).read_text()
        assert source.count("import gt as torch\n") == 1
        (tmp_path / name).write_text(source.replace("import gt as torch\n", "import torch\n"))
    losses = []
    for folder in (EXAMPLE, tmp_path):
        out = tmp_path / f"losses{len(losses)}"
        options = ["--max-steps", "20", "--batch-size", "4", "--accumulate", "2", "--lr", "1e-3", "--no-eval"]
        paths = ["--model", str(made / "qwen3"), "--data", str(made / "prepared"), "--losses-out", str(out)]
        done = run("train.py", *paths, *options, "--optimizer", optimizer, folder=folder)
        assert "Training Complete!" in done.stdout, done.stderr
        losses.append(out.read_text().split())
    assert len(losses[0]) == 20
    assert losses[0] == losses[1]


def test_a_saved_checkpoint_gives_identical_logits_in_transformers(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    paths = ["--model", str(made / "qwen3"), "--data", str(made / "prepared"), "--out", str(out)]
    assert run("train.py", *paths, "--max-steps", "3", "--no-eval").returncode == 0
    done = run("load_weights.py", "--model", str(out))
    assert "largest relative difference 0.0e+00" in done.stdout, done.stdout + done.stderr


def test_accumulation_divides_by_the_targets_of_the_whole_batch(made: Path, tmp_path: Path) -> None:
    found = []
    for size, accumulate in ((8, 1), (1, 8)):
        out = tmp_path / f"{size}"
        paths = ["--model", str(made / "qwen3"), "--data", str(made / "prepared"), "--losses-out", str(out)]
        options = ["--max-steps", "3", "--no-eval", "--batch-size", str(size), "--accumulate", str(accumulate)]
        done = run("train.py", *paths, *options)
        assert done.returncode == 0, done.stderr
        found.append([float.fromhex(x) for x in out.read_text().split()])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_broken_checkpoint_is_refused_by_file_and_name(made: Path, tmp_path: Path) -> None:

    def broken(name: str) -> Path:
        return shutil.copytree(made / "qwen3", tmp_path / name)

    cut = broken("cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1000])
    lost = broken("lost") / "model.safetensors"
    weights = load_file(lost)
    save_file({k: v for k, v in weights.items() if k != "model.norm.weight"}, lost)
    odd = broken("odd") / "config.json"
    odd.write_text(json.dumps({**json.loads(odd.read_text()), "intermediate_size": 100}))
    head = broken("head") / "model.safetensors"
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, head)
    expected = {
        "cut": "model.safetensors: ",
        "lost": "model.norm.weight is missing",
        "odd": "has shape [128, 384], config.json asks for [128, 100]",
    }
    for name, text in expected.items():
        done = run("load_weights.py", "--model", str(tmp_path / name))
        assert done.returncode == 1
        assert text in done.stderr
        assert "Traceback" not in done.stderr
    assert run("load_weights.py", "--model", str(tmp_path / "head")).returncode == 0


def test_a_bad_row_is_named_and_nothing_is_half_written(made: Path, tmp_path: Path) -> None:
    good = json.loads((made / "data.json").read_text())[:60]
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([*good, {"instruction": "no answer"}]))
    arguments = ["--model", str(made / "qwen3"), "--out", str(tmp_path / "out")]
    done = run("prepare_data.py", "--data", str(bad), *arguments)
    assert "bad.json: row 61 has no text 'output'" in done.stderr
    bad.write_text(json.dumps([*good, {"instruction": "empty", "output": " "}, {"instruction": "x" * 9000, "output": "y"}]))
    assert not (tmp_path / "out").exists()
    done = run("prepare_data.py", "--data", str(bad), *arguments, "--held-out", "5")
    assert "Dropped 1 rows with an empty answer and 1 whose answer lies beyond 512 tokens" in done.stdout


def test_without_a_network_it_says_so_in_one_line() -> None:
    done = run("load_weights.py", "--model", "Qwen/Qwen3-1.7B")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be downloaded" in done.stderr
