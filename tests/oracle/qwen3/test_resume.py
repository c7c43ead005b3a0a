"""A run that is interrupted, at any moment and by anything, gives what it would have given."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import gt
from tests.cluster.conftest import embedded
from tests.oracle.qwen3.conftest import ENVIRONMENT, EXAMPLE
from tests.oracle.qwen3.test_train import run_of

KILLS = int(os.environ.get("TEST_KILLS", "10"))
MOMENTS = [0, *(pytest.param(kill, marks=pytest.mark.long) for kill in range(1, KILLS))]


def parameters(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().cpu().flatten().float() for p in model.parameters()])


@pytest.mark.parametrize(
    "options",
    [
        "--optimizer adamw",
        "--optimizer sgd --bucket",
        "--precision bf16",
        "--precision bf16 --accumulate 2 --optimizer sgd",
        "--precision bf16-autocast --schedule wsd",
        "--lora --lora-dropout 0.3",
        "--lora --precision bf16 --lora-targets q_proj,v_proj --pack --batch-size 1",
    ],
)
def test_a_run_that_goes_on_from_a_checkpoint_has_the_bits_of_one_that_was_never_stopped(
    options: str, made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    given = run_of(scripts, made, tmp_path, "--max-steps", "5", "--save-every", "3", *options.split())
    checkpoints = scripts.checkpoints.Checkpoints(given.given.checkpoints, 1)

    def trained(state: object, checkpoint: Path | None) -> tuple[list[float], torch.Tensor]:
        model = scripts.train.open_model(given, checkpoint)
        training = scripts.train.Training(given, model, checkpoints, state)
        return training.steps(scripts.train.Interrupts()).losses, parameters(model)

    losses, weights = trained(given.begin(), None)
    assert checkpoints.steps() == [3]
    state = checkpoints.last()
    assert state.losses == losses[:3]
    resumed, again = trained(state, checkpoints.path(3))
    assert resumed == losses
    assert torch.equal(again, weights)


def test_bf16_with_masters_learns_as_float32_does(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    """Steps that are smaller than bfloat16 resolves add up in the masters, and accumulation is one big batch."""
    found = {}
    for name, options in {
        "fp32": "--batch-size 8",
        "bf16": "--batch-size 8 --precision bf16",
        "accumulated": "--batch-size 1 --accumulate 8 --precision bf16",
    }.items():
        given = run_of(scripts, made, tmp_path, "--max-steps", "6", "--lr", "1e-4", *options.split())
        model = scripts.train.open_model(given, None)
        before = parameters(model)
        training = scripts.train.Training(given, model, scripts.checkpoints.Checkpoints(tmp_path / "none", 1), given.begin())
        training.steps(scripts.train.Interrupts())
        masters = torch.cat([m.detach().cpu().flatten() for m in training.stepper.masters.values()])
        assert {p.dtype for p in model.parameters()} == {torch.float32 if name == "fp32" else torch.bfloat16}
        found[name] = masters - before[: len(masters)]
    for name in ("bf16", "accumulated"):
        assert torch.cosine_similarity(found[name], found["fp32"], dim=0) > 0.9, name


def command(made: Path, out: Path, *options: str) -> list[str]:
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", str(out)]
    losses = ["--losses-out", f"{out}.losses"]
    return [sys.executable, str(EXAMPLE / "train.py"), *paths, *losses, "--no-eval", "--log-every", "1", *options]


FEW = ("--max-steps", "12", "--save-every", "2", "--batch-size", "8", "--lr", "1e-3")


@pytest.fixture(scope="module")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = subprocess.run(command(made, out, *FEW), capture_output=True, text=True, env=ENVIRONMENT)
    assert "Training Complete!" in done.stdout, done.stderr
    return out


def same(out: Path, whole: Path) -> bool:
    files = [Path(f"{folder}.losses").read_bytes() for folder in (out, whole)]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, whole)]
    return files[0] == files[1] and weights[0] == weights[1]


def until(made: Path, out: Path, batch: int, act: Callable[[subprocess.Popen[str]], None]) -> tuple[int, str, str]:
    """Run until a batch is shown, act, and wait for the end; returns its status, and what it printed from then on."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**ENVIRONMENT, "TMPDIR": str(out.parent)}
    with subprocess.Popen(command(made, out, *FEW), text=True, env=environment, **pipes) as process:
        for line in process.stdout:
            if f"Batch {batch}/" in line:
                break
        act(process)
        said = process.communicate(timeout=120)
    return process.returncode, *said


@pytest.mark.parametrize("kill", MOMENTS)
def test_a_run_that_was_killed_goes_on_with_the_same_command(kill: int, made: Path, tmp_path: Path, whole: Path) -> None:
    """`TEST_KILLS=100 ./test --long`: at a hundred moments. Whatever is there under its name is whole."""
    out = tmp_path / "out"
    draw = random.Random(kill)

    def after_a_moment(process: subprocess.Popen[str]) -> None:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.0, 0.5))
        process.kill()

    until(made, out, draw.randrange(2, 10), after_a_moment)
    for folder in sorted(Path(f"{out}-checkpoints").glob("step-*")):
        AutoModelForCausalLM.from_pretrained(folder)
        assert load_file(folder / "optimizer" / "exp_avg.safetensors")
    done = subprocess.run(command(made, out, *FEW), capture_output=True, text=True, env=ENVIRONMENT)
    assert re.search("Going on after step|Finished already", done.stdout), done.stderr
    assert same(out, whole)
    again = subprocess.run(command(made, out, *FEW), capture_output=True, text=True, env=ENVIRONMENT)
    assert again.stdout.splitlines()[-1].startswith(f"Finished already: {out} (steps: 12, loss of the last step: ")


@pytest.mark.parametrize("removing", ["the others", "one of the same step", "all"])
def test_a_removal_that_is_cut_short_leaves_no_part_under_a_checkpoints_name(
    removing: str, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = scripts.checkpoints
    checkpoints = module.Checkpoints(tmp_path / "checkpoints", 1)

    def save(step: int) -> None:
        checkpoints.begin(module.State([1.0] * step), lambda folder, save: save({"w": torch.ones(3)}, folder / "w"), {})
        checkpoints.finish()

    def cut_short(folder: Path, **options: bool) -> None:
        if folder.exists():
            next(path for path in folder.rglob("*") if path.is_file()).unlink()
            raise KeyboardInterrupt

    save(2)
    remove = {"the others": lambda: save(4), "one of the same step": lambda: save(2), "all": checkpoints.clear}[removing]
    with monkeypatch.context() as patched:
        patched.setattr(module.shutil, "rmtree", cut_short)
        with pytest.raises(KeyboardInterrupt):
            remove()
    for step in checkpoints.steps():
        assert {path.name for path in checkpoints.path(step).rglob("*")} == {"w", module.STATE, module.OPTIMIZER}
    checkpoints.drop_partial()
    assert {path.name for path in checkpoints.folder.iterdir()} == {f"step-{step:06d}" for step in checkpoints.steps()}


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_asks_for_a_checkpoint_first(
    number: signal.Signals, name: str, made: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "out"
    status, said, told = until(made, out, 3, lambda process: process.send_signal(number))
    assert status == 128 + number
    assert told == f"stopping after this step, with a checkpoint ({name} again: at once)\n"
    assert said.splitlines()[-1].startswith("Stopped after step ")
    assert not out.exists()
    assert [path.name[:5] for path in Path(f"{out}-checkpoints").iterdir()] == ["step-"]
    if number == signal.SIGTERM:
        done = subprocess.run(command(made, out, *FEW, "--resume"), capture_output=True, text=True, env=ENVIRONMENT)
        assert "Going on after step" in done.stdout, done.stderr
        assert same(out, whole)


def test_training_goes_on_by_itself_when_the_worker_dies(made: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "out"

    def kill_the_worker(process: subprocess.Popen[str]) -> None:
        (worker,) = embedded(tmp_path, "worker")
        os.kill(worker, signal.SIGKILL)

    status, said, told = until(made, out, 7, kill_the_worker)
    assert status == 0, told
    (line,) = [line for line in said.splitlines() if "in a new session" in line]
    assert "going on after step " in line
    assert same(out, whole)


def test_a_worker_that_dies_again_before_the_next_checkpoint_is_told_in_one_line(
    made: Path, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def die(*_: object) -> None:
        raise gt.errors.WorkerLostError("worker0 died\nissued at a line")

    given, reopened = run_of(scripts, made, tmp_path), []
    checkpoints = scripts.checkpoints.Checkpoints(given.given.checkpoints, 1)
    monkeypatch.setattr(scripts.train, "fit", die)
    monkeypatch.setattr(scripts.train.torch, "reopen", lambda: reopened.append(True))
    with pytest.raises(scripts.problems.UserError) as caught:
        scripts.train.fit_whatever_dies(given, checkpoints)
    assert str(caught.value) == "worker0 died, again after step 0; the same command goes on from there"
    assert capsys.readouterr().out == "worker0 died; going on after step 0 in a new session\n"
    assert reopened == [True]


def test_a_signal_to_all_processes_of_a_job_asks_once(
    scripts: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """train.sh has ended of it too, and its end sends another SIGTERM."""
    end = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setattr(scripts.problems, "_shell", 1)  # no parent of this process
    monkeypatch.setattr(scripts.problems.time, "sleep", end)
    with scripts.train.Interrupts() as interrupts:
        end()
        assert interrupts.wanted == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert capsys.readouterr().err == "stopping after this step, with a checkpoint (SIGTERM again: at once)\n"


def test_workers_that_die_in_the_last_evaluation_are_no_end(
    made: Path, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = run_of(scripts, made, tmp_path, "--max-steps", "2", "--save-every", "1")
    given.given.no_eval = False
    report, calls = scripts.train.Report(1.0, 0.0, []), iter(range(9))

    def evaluated(held_out: object, model: object) -> object:
        if next(calls) == 1:
            raise gt.errors.WorkerLostError("worker0 died")
        return report

    monkeypatch.setattr(type(given.held_out), "report", evaluated)
    monkeypatch.setattr(scripts.train.torch, "reopen", lambda: None)
    state, found = scripts.train.fit_whatever_dies(given, scripts.checkpoints.Checkpoints(given.given.checkpoints, 1))
    assert (state.step, found, next(calls)) == (2, report, 3)


def test_a_service_that_is_lost_while_the_result_is_written_is_not_taken_for_a_full_disk(
    tmp_path: Path, scripts: ModuleType
) -> None:
    def write(folder: Path, save: object) -> list[object]:
        raise gt.errors.ConnectionLostError("gone")

    with pytest.raises(gt.errors.ConnectionLostError):
        scripts.checkpoint_files.write_output(tmp_path / "out", {}, write)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_unfinished_is_removed(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    given = run_of(scripts, made, tmp_path)
    write = scripts.folders.whole
    with write(given.given.out, scripts.folders.OUTPUT, given.made_of):
        pass
    (given.given.out / ".partial-training.json").write_text("{")
    (given.given.checkpoints / ".partial-000007" / "optimizer").mkdir(parents=True)
    with write(given.given.out, scripts.folders.OUTPUT, given.made_of):
        pass
    scripts.train.first_state(given, scripts.checkpoints.Checkpoints(given.given.checkpoints, 1))
    assert [path.name for path in given.given.out.iterdir()] == ["made_of.json"]
    assert list(given.given.checkpoints.iterdir()) == []


def test_checkpoints_lie_beside_the_output_whatever_it_is_called(
    tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [scripts.options.parse(None, told=["--out", out]).checkpoints for out in ("runs/a", ".", f"{tmp_path}/b/")]
    assert found == [Path("runs/a-checkpoints"), Path(f"{tmp_path}-checkpoints"), tmp_path / "b-checkpoints"]


def test_early_stopping_keeps_the_best_weights(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    options = [
        "--batch-size",
        "8",
        "--lr",
        "0.3",
        "--clip",
        "0",
        "--optimizer",
        "sgd",
        "--eval-every",
        "2",
        "--patience",
        "2",
    ]
    given = run_of(scripts, made, tmp_path, "--max-steps", "40", *options)
    checkpoints = scripts.checkpoints.Checkpoints(given.given.checkpoints, 1)
    state, report = scripts.train.fit(given, checkpoints, given.begin(), scripts.train.Interrupts())
    assert report is None
    assert state.step < 40
    assert state.evaluations_since == 2
    assert state.best_step == state.step - 4
    assert given.held_out.loss(scripts.load_weights.load(given.given.out)) == pytest.approx(state.best_loss, rel=1e-6)
    checkpoints.path(state.best_step).rename(checkpoints.path(state.step))
    with pytest.raises(scripts.problems.UserError, match="gone, although it has the lowest held-out loss: --fresh begins"):
        scripts.train.first_state(given, checkpoints)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    made: Path, tmp_path: Path, scripts: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    given = run_of(scripts, made, tmp_path, "--max-steps", "4", "--save-every", "2")
    full = RuntimeError("I/O error: No space left on device (os error 28)")
    calls = []

    def save(tensors: object, path: Path) -> list[object]:
        calls.append(path)
        if len(calls) > 4:
            raise full
        return scripts.checkpoint_files.save_now(tensors, path)

    checkpoints = scripts.checkpoints.Checkpoints(given.given.checkpoints, 2, save)
    model = scripts.train.open_model(given, None)
    scripts.train.Training(given, model, checkpoints, given.begin()).steps(scripts.train.Interrupts())
    assert checkpoints.steps() == [2]
    told = capsys.readouterr().err
    assert "Warning: the checkpoint of step 4 cannot be written (I/O error: No space left" in told
    assert "): it needs 12.2 MB, and the disk has " in told  # the weights, and two states of AdamW
    assert told.rstrip().endswith(f"the last good checkpoint is {checkpoints.path(2)}")
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-000002"]
    shutil.rmtree(checkpoints.folder)


def test_losses_that_explode_end_the_run(scripts: ModuleType) -> None:
    falling = [7 / (1 + step) for step in range(60)]
    assert not scripts.progress.has_exploded(falling)
    assert not scripts.progress.has_exploded([*falling, *[0.4] * 10])
    assert scripts.progress.has_exploded([*falling, *[3.0] * 10])
    assert not scripts.progress.has_exploded([2.0] * 5 + [9.0] * 5)
