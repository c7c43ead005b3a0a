"""Training and the whole pipeline, as a person runs them."""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import side_by_side
from tests.oracle.qwen3.conftest import ENVIRONMENT, EXAMPLE, row, run


def train(made: Path, out: Path, *options: str, folder: Path = EXAMPLE) -> list[str]:
    """Runs train.py; returns each step's loss as written, to the last bit."""
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", str(out)]
    losses = out.with_name(out.name + ".losses")
    done = run("train.py", *paths, "--losses-out", str(losses), "--no-eval", *options, folder=folder)
    assert "Training Complete!" in done.stdout, done.stderr
    return losses.read_text().split()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_twenty_steps_give_the_losses_of_local_torch_to_the_bit(optimizer: str, made: Path, tmp_path: Path) -> None:
    """As a person would: copy the files, change the import line, run both."""
    for script in EXAMPLE.glob("*.py"):
        shutil.copy(script, tmp_path)
    for name in ("model.py", "train.py"):
        source = (tmp_path / name).read_text()
        assert source.count("import gt as torch\n") == 1
        (tmp_path / name).write_text(source.replace("import gt as torch\n", "import torch\n"))
    options = ["--max-steps", "20", "--batch-size", "4", "--accumulate", "2", "--lr", "1e-3", "--optimizer", optimizer]
    remote, local = side_by_side(
        lambda: train(made, tmp_path / "remote", *options),
        lambda: train(made, tmp_path / "local", *options, folder=tmp_path),
    )
    assert len(remote) == 20
    assert remote == local
    saved = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("remote", "local")]
    assert saved[0] == saved[1]


def test_a_saved_checkpoint_is_one_for_transformers(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    """Identical logits, the tokenizer, and a text that ends where the answer does."""
    out = tmp_path / "tuned"
    train(made, out, "--max-steps", "60", "--batch-size", "16", "--lr", "3e-3")
    model = scripts.load_weights.load(out)
    assert scripts.load_weights.difference(model, out) == 0
    saved, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    prompt = scripts.prepare_data.TEMPLATES["qwen3"].prompt(row(scripts, "", "Add 2 and 3."))
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    text = saved.generate(ids, max_new_tokens=32, do_sample=False)[0, ids.shape[1] :].tolist()
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert text[-1] == end
    assert len(text) < 32
    (answer,) = scripts.train.answers(model, ids.tolist(), pad, end)
    assert [*answer, end] == text


def test_accumulation_is_one_big_batch(made: Path, scripts: ModuleType) -> None:
    """Eight rows at once and one after another: loss and gradients, divided by the targets of all."""
    rows = scripts.train.Rows.open(made / "prepared" / "train", 1024)
    found = []
    for size in (8, 1):
        model = scripts.load_weights.load(made / "qwen3")
        arrays = [rows.batch(np.arange(start, start + size), pad=0) for start in range(0, 8, size)]
        found.append(scripts.train.accumulate(model, arrays, bf16=False).item())
        found.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters()]))
    assert found[0] == pytest.approx(found[2], rel=3e-7)
    assert (found[1] - found[3]).abs().max() <= 1e-6 * found[1].abs().max()


@pytest.mark.parametrize("change", ["", "import gt as torch"])
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(change: str, made: Path, tmp_path: Path) -> None:
    """Files may not grow beyond 1 MiB; the checkpoint would be 4."""
    for script in EXAMPLE.glob("*.py"):
        (tmp_path / script.name).write_text(script.read_text().replace(change or "\0", "import torch"))
    command = f"ulimit -f 1024; exec {sys.executable} {tmp_path}/train.py --no-eval --max-steps 1 --runs {tmp_path}/runs"
    paths = f"--model {made}/qwen3 --prepared {made}/prepared"
    done = subprocess.run(["bash", "-c", f"{command} {paths}"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert f"{tmp_path}/runs/qwen3-tuned: the weights cannot be written: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_learning_rate_warms_up_and_falls_to_a_tenth(scripts: ModuleType) -> None:
    rates = [scripts.train.schedule(step, 110, 10) for step in range(111)]
    assert rates[:11] == [*(step / 10 for step in range(1, 11)), 1.0]
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert rates[35] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_rows_prepared_for_another_model_are_refused(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    with pytest.raises(scripts.problems.UserError, match="prepared for another model"):
        scripts.train.Rows.open(made / "prepared" / "train", 100)
    copy = shutil.copytree(made / "prepared" / "train", tmp_path / "copy")
    np.save(copy / "offsets.npy", np.array([0, 7]))
    with pytest.raises(scripts.problems.UserError, match="do not belong together"):
        scripts.train.Rows.open(copy, 1024)


PRINTED = [
    "Step 1: Loading weights from HuggingFace...",
    "Model loaded. Vocab size: 1024",
    "Converting weights to GT format...",
    "Weight conversion complete!",
    "Forward pass verification PASSED",
    "Step 2: Preparing training data...",
    "Dataset size: 60 examples",
    "Tokenization complete!",
    "Step 3: Training model...",
    "Epoch 1/1",
    "  Batch 0/5 | Loss: ",
    "  Batch 4/5 | Loss: ",
    "Training Complete!",
]


def test_the_pipeline_says_what_it_does_in_order(made: Path, tmp_path: Path) -> None:
    paths = ["--model", str(made / "qwen3"), "--data", str(made / "data.json"), "--runs", "runs"]
    options = ["--rows", "60", "--held-out=10", "--batch-size", "10", "--epochs=1", "--bf16"]
    log = {"GT_WORKER_BATCH_SIZE": "10", "GT_INSTRUCTION_LOG": "debug.log"}
    done = run("train.sh", *paths, *options, cwd=tmp_path, **log)
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    for expected in PRINTED:
        assert any(line.startswith(expected) for line in lines), f"{expected!r} not printed, or not in its place"
    assert (tmp_path / "debug.log").stat().st_size > 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["data-qwen3", "qwen3-tuned"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epoch", "3"], "train.sh: unrecognized arguments: --epoch 3 (--help lists what there is)"),
        (["--lr", "fast"], "train.sh: argument --lr: fast is not a number from 0 up (--help lists what there is)"),
        (["--model"], "train.sh: argument --model: expected one argument (--help lists what there is)"),
        (
            ["--batch-size=0"],
            "train.sh: argument --batch-size: 0 is not a whole number from 1 up (--help lists what there is)",
        ),
    ],
)
def test_wrong_arguments_are_told_at_once_in_one_line(arguments: list[str], said: str) -> None:
    done = run("train.sh", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said + "\n")


def test_sharding_is_refused_until_it_is_supported() -> None:
    done = run("train.sh", GT_CONFIG="sharding.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "GT_CONFIG: sharding files are not supported yet; unset it to run on one worker\n"


@pytest.mark.parametrize("script", ["load_weights.py", "prepare_data.py"])
def test_without_a_network_it_says_in_one_line_what_to_do(script: str, made: Path, tmp_path: Path) -> None:
    model = "Qwen/Qwen3-1.7B" if script == "load_weights.py" else str(made / "qwen3")
    done = run(script, "--model", model, "--data", "tatsu-lab/alpaca", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be downloaded" in done.stderr
    assert "connect to the network" in done.stderr


def test_ctrl_c_ends_training_in_one_line_and_leaves_nothing_half_written(made: Path, tmp_path: Path) -> None:
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", str(tmp_path / "out")]
    command = [sys.executable, str(EXAMPLE / "train.py"), *paths, "--no-eval", "--log-every", "1", "--epochs", "1000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=ENVIRONMENT, **pipes) as process:
        while "Batch 2/" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == "interrupted\n"
        assert process.wait(30) != 0
    assert list(tmp_path.iterdir()) == []
