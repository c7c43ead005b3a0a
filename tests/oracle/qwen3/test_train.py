"""Training and the whole pipeline, run as a user would."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import side_by_side
from tests.oracle.qwen3.conftest import ENVIRONMENT, EXAMPLE, difference, row, run


def train(made: Path, out: Path, *options: str, script: str = "train.py", folder: Path = EXAMPLE) -> list[str]:
    """Run it; returns each step's loss as written, bit-exact."""
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", str(out)]
    losses = out.with_name(out.name + ".losses")
    done = run(script, *paths, "--losses-out", str(losses), "--no-eval", *options, folder=folder)
    assert "Training Complete!" in done.stdout, done.stderr
    return losses.read_text().split()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The example's scripts, with train_pytorch.py next to them: train.py with its import line changed."""
    folder = tmp_path / "copied"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("runs", "__pycache__"))
    source = (folder / "train.py").read_text()
    assert source.count("import gt as torch") == 1
    assert "import gt as torch" not in "".join(p.read_text() for p in folder.glob("*.py") if p.name != "train.py")
    (folder / "train_pytorch.py").write_text(source.replace("import gt as torch", "import torch"))
    return folder


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_twenty_steps_give_the_losses_of_local_torch_to_the_bit(
    optimizer: str, made: Path, tmp_path: Path, copied: Path
) -> None:
    """As a user would: copy train.py, change the import line, run both."""
    options = ["--max-steps", "20", "--batch-size", "4", "--accumulate", "2", "--lr", "1e-3", "--optimizer", optimizer]
    options += ["--weight-decay", "0.1", "--clip", "0.5" if optimizer == "sgd" else "0"]
    remote, local = side_by_side(
        lambda: train(made, tmp_path / "remote", *options),
        lambda: train(made, tmp_path / "local", *options, script="train_pytorch.py", folder=copied),
    )
    assert len(remote) == 20
    assert remote == local
    saved = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("remote", "local")]
    assert saved[0] == saved[1]


@pytest.mark.parametrize(
    "options",
    [
        "--precision bf16 --bucket",
        "--precision bf16 --accumulate 2 --optimizer sgd",
        "--precision bf16-autocast --pack --activation-checkpointing",
        "--lora --precision bf16 --lora-dropout 0.3 --pack --rslora",
    ],
)
def test_steps_of_every_kind_are_those_of_local_torch_to_the_bit(
    options: str, made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    run = run_of(scripts, made, tmp_path, "--batch-size", "4", "--max-tokens", "64", *options.split())
    found = []
    for device in ("cpu", "remote"):
        model = scripts.train.open_model(run, None).to(device)
        model.lm_head.weight = model.model.embed_tokens.weight
        stepper, norms = scripts.optimizers.Stepper(scripts.train.trained(model), run.given), []
        for step, chosen in itertools.islice(scripts.packing.batches(run.rows, run.given), 3):
            torch.manual_seed(step)
            batches = [run.rows.batch(rows, run.held_out.pad) for rows in chosen]
            loss = scripts.train.accumulate(model, batches, run.given.precision == "bf16-autocast")
            norms += [loss.item(), stepper.step(1.0).item()]
        found.append((norms, [parameter.detach().cpu() for parameter in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))


def test_the_copy_for_pytorch_loads_nothing_of_gt(made: Path, copied: Path) -> None:
    told = "import atexit, runpy, sys; atexit.register(lambda: print('loaded:', sorted({'gt', 'torch'} & {*sys.modules})))"
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", "out"]
    command = [sys.executable, "-c", f"{told}; runpy.run_path('train_pytorch.py', run_name='__main__')"]
    command += [*paths, "--max-steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=copied)
    assert "Held-out after training" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: ['torch']"


def test_a_saved_checkpoint_is_one_for_transformers(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    """Identical logits, the tokenizer, and generated text that stops at the end of the answer."""
    out = tmp_path / "tuned"
    train(made, out, "--max-steps", "60", "--batch-size", "16", "--lr", "3e-3")
    model = scripts.load_weights.load(out)
    assert difference(scripts, out, model) == 0
    saved, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    chat = scripts.chat.Chat.open(out, "qwen3")
    prompt = chat.prompt(row(scripts, "", "Add 2 and 3.").messages[:-1])
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    text = saved.generate(ids, max_new_tokens=32, do_sample=False)[0, ids.shape[1] :].tolist()
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert text[-1] == end
    assert len(text) < 32
    (answer,) = scripts.evaluation.answers(model, ids.tolist(), pad, end)
    assert [*answer, end] == text


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_accumulation_is_one_big_batch(dtype: torch.dtype, bound: float, made: Path, scripts: ModuleType) -> None:
    """Eight rows at once and one by one give the same loss and gradients, divided by the targets of all."""
    rows = scripts.prepared.Rows.open(made / "prepared" / "train", 1024)
    found = []
    for size in (8, 1):
        model = scripts.load_weights.load(made / "qwen3").to(dtype)
        arrays = [rows.batch(np.arange(start, start + size), pad=0) for start in range(0, 8, size)]
        found.append(scripts.train.accumulate(model, arrays, autocast=False).item())
        found.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters()]))
    assert found[0] == pytest.approx(found[2], rel=0.3 * bound)
    assert (found[1] - found[3]).abs().max() <= bound * found[1].abs().max()


@pytest.mark.parametrize("options", [[], ["--lora"]])
def test_packed_rows_have_the_loss_and_gradients_of_the_same_rows_unpacked(
    options: list[str], made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    run = run_of(scripts, made, tmp_path, "--pack", *options)
    rows = np.array([row for members in run.rows.bins[:3] for row in members])
    found = []
    for batch in (run.rows.batch(np.arange(3), run.held_out.pad), run.rows.rows.batch(rows, run.held_out.pad)):
        model = scripts.train.open_model(run, None).double()
        loss = scripts.evaluation.loss_sum(model, batch)
        loss.backward()
        found.append((loss.item(), [p.grad.cpu() for p in scripts.train.trained(model).values()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for packed, plain in zip(found[0][1], found[1][1], strict=True):
        assert (packed - plain).norm() <= 1e-12 * plain.norm()


@pytest.mark.parametrize("script", ["train.py", "train_pytorch.py"])
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(script: str, made: Path, tmp_path: Path, copied: Path) -> None:
    """Files are limited to 1 MiB; the checkpoint would be 4."""
    command = f"ulimit -f 1024; exec {sys.executable} {copied}/{script} --no-eval --max-steps 1 --runs {tmp_path}/runs"
    paths = f"--model {made}/qwen3 --prepared {made}/prepared"
    done = subprocess.run(["bash", "-c", f"{command} {paths}"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert f"{tmp_path}/runs/qwen3-prepared-tuned: the weights cannot be written: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "runs").iterdir()) == []


def run_of(scripts: ModuleType, made: Path, tmp_path: Path, *options: str) -> Any:
    """A run on the prepared rows, as train.py opens it."""
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", str(tmp_path / "out")]
    told = [*paths, "--no-eval", "--epochs", "1", "--log-every", "4", "--warmup", "0", "--lr", "1e-3", *options]
    return scripts.train.Run.open(scripts.options.parse(None, told=told))


def trained(scripts: ModuleType, run: Any) -> tuple[Any, torch.nn.Module]:
    """The state at the end of a run, and its model."""
    checkpoints = scripts.checkpoints.Checkpoints(run.given.checkpoints, 1)
    model = scripts.train.open_model(run, None)
    training = scripts.train.Training(run, model, checkpoints, run.begin())
    return training.steps(scripts.train.Interrupts()), model


@pytest.mark.parametrize("poisoned", [0, 5, 11])
def test_a_step_that_is_not_finite_ends_the_training_and_is_named(
    poisoned: int, made: Path, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose loss is not shown and whose gradients alone are not finite."""
    accumulate, steps = scripts.train.accumulate, iter(range(100))

    def bad(model: torch.nn.Module, *arguments: object) -> torch.Tensor:
        loss = accumulate(model, *arguments)
        if next(steps) == poisoned:
            model.model.norm.weight.grad.fill_(math.inf)
        return loss

    monkeypatch.setattr(scripts.train, "accumulate", bad)
    with pytest.raises(scripts.problems.UserError, match=rf"^epoch 1, batch {poisoned}: loss .*nothing was saved"):
        trained(scripts, run_of(scripts, made, tmp_path, "--max-steps", "12"))
    assert next(steps) == min(-(-poisoned // 4) * 4, 11) + 1


def test_the_last_good_checkpoint_is_named_also_if_it_is_still_being_written(
    made: Path, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = scripts.optimizers.Stepper.step, iter(range(100))

    def bad(stepper: object, factor: float) -> torch.Tensor:
        norm = step(stepper, factor)
        return norm * math.nan if next(steps) == 4 else norm

    monkeypatch.setattr(scripts.optimizers.Stepper, "step", bad)
    run = run_of(scripts, made, tmp_path, "--max-steps", "9", "--save-every", "4", "--log-every", "1")
    place = run.given.checkpoints / "step-000004"
    with pytest.raises(
        scripts.problems.UserError, match=f"batch 4: .*gradient norm nan; the last good checkpoint is {place}"
    ):
        trained(scripts, run)
    assert (place / "state.json").exists()


def test_weights_that_are_not_finite_are_no_checkpoint(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    run = run_of(scripts, made, tmp_path, "--lr", "1e30", "--save-every", "1")
    with pytest.raises(scripts.problems.UserError, match="the weights are not finite after step 1; nothing was saved"):
        trained(scripts, run)
    assert not run.given.checkpoints.exists()


def test_a_training_that_diverges_keeps_the_checkpoint_that_was_there(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(made, out, "--max-steps", "1")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", str(out)]
    done = run("train.py", *paths, "--no-eval", "--max-steps", "3", "--lr", "1e30", "--warmup", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("epoch 1, batch 1: loss ")
    assert done.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_losses_are_fetched_when_they_are_shown_and_not_oftener(made: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", str(tmp_path / "out")]
    few = ["--no-eval", "--max-steps", "12", "--log-every", "5", "--precision", "bf16-autocast"]
    done = run("train.py", *paths, *few, GT_INSTRUCTION_LOG=str(log))
    assert done.stdout.count("Batch ") == 4, done.stderr
    weights, workers = 1, 1  # whether they are finite; where a tensor is, for the check of the memory
    found = sum(json.loads(line)["kind"] == "Fetch" for line in log.read_text().splitlines())
    assert found == 4 + weights + workers


def test_no_clipping_and_the_other_ends_of_the_options(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    def found(*options: str) -> tuple[list[float], torch.Tensor]:
        state, model = trained(scripts, run_of(scripts, made, tmp_path, "--max-steps", "3", *options))
        return state.losses, torch.cat([p.detach().cpu().flatten() for p in model.parameters()])

    before = torch.cat([p.detach().cpu().flatten() for p in scripts.load_weights.load(made / "qwen3").parameters()])
    (free, freely), (wide, widely) = found("--clip", "0"), found("--clip", "1e9")
    assert free == wide
    assert torch.equal(freely, widely)
    assert not torch.equal(freely, before)
    assert torch.equal(found("--lr", "0")[1], before)
    decayed = ["--lr", "0.1", "--weight-decay", "1", "--optimizer", "sgd", "--clip", "1e-9", "--max-steps", "1"]
    assert torch.allclose(found(*decayed)[1], before * 0.9, atol=1e-7)
    assert found("--warmup", "1")[0][0] == free[0]
    with pytest.raises(scripts.problems.UserError, match="the weights are not finite after step 1; nothing was saved"):
        found("--lr", "1e30", "--max-steps", "1")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--losses-out", "none/losses"], "none/losses: No such file or directory\n"),
        (["--losses-out", "."], ".: Is a directory\n"),
        (["--out", "dangling"], "dangling: a dangling link to nowhere\n"),
    ],
)
def test_what_could_not_be_written_at_the_end_is_found_before_training(
    flags: list[str], said: str, made: Path, tmp_path: Path
) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", "out", *flags]
    done = run("train.py", *paths, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "Step 3: Training model...\n", said)
    assert [path.name for path in tmp_path.iterdir()] == ["dangling"]


def test_the_learning_rate_warms_up_and_falls_to_a_tenth(scripts: ModuleType) -> None:
    rates = [scripts.optimizers.rate("cosine", step, 110, 10) for step in range(111)]
    assert rates[:11] == [*(step / 10 for step in range(1, 11)), 1.0]
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert rates[35] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_other_schedules_end_at_nothing_or_stay(scripts: ModuleType) -> None:
    linear, constant, wsd = (
        [scripts.optimizers.rate(kind, step, 110, 10) for step in range(111)] for kind in ("linear", "constant", "wsd")
    )
    assert linear[:11] == constant[:11] == wsd[:11] == [*(step / 10 for step in range(1, 11)), 1.0]
    assert linear[60] == pytest.approx(0.5)
    assert set(constant[10:]) == {1.0}
    assert set(wsd[10:91]) == {1.0}
    assert wsd[100] == pytest.approx(0.5)
    assert linear[110] == wsd[110] == 0


def test_rows_prepared_for_another_model_are_refused(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    with pytest.raises(scripts.problems.UserError, match="prepared for another model"):
        scripts.prepared.Rows.open(made / "prepared" / "train", 100)
    other = shutil.copytree(made / "prepared", tmp_path / "prepared")
    (other / "chat.json").write_text(json.dumps({"end": "<|im_end|>", "tokenizer": "another"}))
    with pytest.raises(scripts.problems.UserError, match="prepared for another model: its tokenizer"):
        scripts.evaluation.HeldOut.open(other, made / "qwen3", 1024)


def test_conversations_ask_their_last_question_and_texts_ask_nothing(
    made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    chat = scripts.chat.Chat.open(made / "qwen3", "qwen3")
    messages = [{"role": role, "content": "Add 1 and 2."} for role in ("user", "assistant") * 2]
    found = [{"text": "one two"}, {"messages": messages}, {"text": "three"}]
    encoded = [one for row in found for one in scripts.encode.encode(scripts.shapes.row_of(row), chat)]
    model = scripts.load_weights.load(made / "qwen3")
    prompts = [chat.tokenizer.encode(chat.prompt(messages[:end])).ids for end in (1, 3)]
    for held_out, asked in ((encoded, prompts), (encoded[:1], [])):
        folder = tmp_path / str(len(asked))
        folder.mkdir()
        with scripts.prepared.Writer(folder / "held_out") as writer:
            for one in held_out:
                writer.add(one.ids, one.labels)
        scripts.prepared.write_questions(folder / "held_out", [one.questions[-1] for one in held_out])
        shutil.copy(made / "prepared" / "chat.json", folder)
        opened = scripts.evaluation.HeldOut.open(folder, made / "qwen3", 1024)
        expected = scripts.evaluation.answers(model, asked, 0, opened.end) if asked else []
        report = opened.report(model)
        assert report.made == [opened.tokenizer.decode(ids) for ids in expected]
        assert ("exact match 0% of 2" in str(report)) == bool(asked)


@pytest.mark.parametrize("script", ["load_weights.py", "prepare_data.py"])
def test_without_a_network_it_says_in_one_line_what_to_do(script: str, made: Path, tmp_path: Path) -> None:
    model = "Qwen/Qwen3-1.7B" if script == "load_weights.py" else str(made / "qwen3")
    done = run(script, "--model", model, "--data", "tatsu-lab/alpaca", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be downloaded" in done.stderr
    assert "connect to the network" in done.stderr
