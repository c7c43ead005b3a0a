"""Which run the checkpoints of a folder are of, and whether it has been finished: no other run goes on with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.oracle.qwen3.conftest import Broken
from tests.oracle.qwen3.test_train import run_of


def trained(scripts: ModuleType, given: Any) -> Any:
    """The checkpoints of a run that is trained from its beginning on."""
    checkpoints = scripts.checkpoints.Checkpoints(given.given.checkpoints, 1)
    training = scripts.train.Training(given, scripts.train.open_model(given, None), checkpoints, given.begin())
    training.steps(scripts.train.Interrupts())
    return checkpoints


def changed_rows(made: Path, tmp_path: Path) -> str:
    """A folder of prepared rows in which one label is none."""
    folder = shutil.copytree(made / "prepared", tmp_path / "changed")
    labels = np.load(folder / "train" / "labels.npy")
    labels[np.flatnonzero(labels != -100)[-1]] = -100
    np.save(folder / "train" / "labels.npy", labels)
    return str(folder)


def test_an_unfinished_run_with_other_options_or_rows_is_not_overwritten(
    made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    given = run_of(scripts, made, tmp_path, "--max-steps", "2", "--save-every", "1")
    checkpoints = trained(scripts, given)
    other = run_of(scripts, made, tmp_path, "--max-steps", "2", "--lr", "2e-3")
    for other_has_finished in (False, True):
        if other_has_finished:
            given.given.out.mkdir()
            scripts.train.write_result(other, None, scripts.checkpoints.State(losses=[1.0]))
        with pytest.raises(scripts.problems.UserError, match=r"unfinished run with another --lr \(0\.001, now 0\.002\): "):
            scripts.train.first_state(other, checkpoints)
    shutil.rmtree(given.given.out)
    other = run_of(
        scripts, made, tmp_path, "--max-steps", "2", "--save-every", "1", "--prepared", changed_rows(made, tmp_path)
    )
    with pytest.raises(scripts.problems.UserError, match="an unfinished run with another content of the prepared rows"):
        scripts.train.first_state(other, checkpoints)
    fresh = run_of(scripts, made, tmp_path, "--max-steps", "2", "--lr", "2e-3", "--fresh")
    assert scripts.train.first_state(fresh, checkpoints).step == 0
    assert checkpoints.steps() == []
    with pytest.raises(scripts.problems.UserError, match="no checkpoint to go on from"):
        scripts.train.first_state(run_of(scripts, made, tmp_path, "--resume"), checkpoints)


def test_a_run_is_finished_only_for_the_same_command(
    made: Path, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = run_of(scripts, made, tmp_path)
    with scripts.folders.whole(given.given.out, scripts.folders.OUTPUT, given.made_of):
        pass
    scripts.train.write_result(given, None, scripts.checkpoints.State(losses=[2.0, 1.0]))
    assert scripts.train.finished(given) is None
    (given.given.out / "model.safetensors").touch()
    assert scripts.train.finished(given) == {"steps": "2", "loss of the last step": "1.0000"}
    assert scripts.train.finished(run_of(scripts, made, tmp_path, "--log-every", "9"))
    for options in (["--fresh"], ["--lr", "2e-3"], ["--pack"]):
        assert scripts.train.finished(run_of(scripts, made, tmp_path, *options)) is None
    assert scripts.train.finished(run_of(scripts, made, tmp_path, "--prepared", changed_rows(made, tmp_path))) is None
    monkeypatch.setenv("GT_CONFIG", "sharding.yaml")
    assert scripts.train.finished(given) is None


def test_a_run_does_not_go_on_from_other_weights(made: Path, broken: Broken, tmp_path: Path, scripts: ModuleType) -> None:
    """Also if they are in the same place, as those of an earlier training are."""
    base = broken()
    options = ["--model", str(base), "--lora", "--max-steps", "2", "--save-every", "1"]
    given = run_of(scripts, made, tmp_path, *options)
    checkpoints = trained(scripts, given)
    assert scripts.train.first_state(run_of(scripts, made, tmp_path, *options), checkpoints).step == 2
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, base / "model.safetensors")
    with pytest.raises(scripts.problems.UserError, match="an unfinished run with another content of the model"):
        scripts.train.first_state(run_of(scripts, made, tmp_path, *options), checkpoints)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("optimizer/masters.safetensors", "no 'masters' in its optimizer"),
        ("optimizer/exp_avg.safetensors", "no 'exp_avg' in its optimizer"),
        ("optimizer", "no 'masters' in its optimizer"),
        ("model.safetensors", "model.safetensors'"),
        ("config.json", "config.json'"),
    ],
)
def test_a_checkpoint_that_is_partly_deleted_is_named_with_what_it_lacks(
    lost: str, said: str, made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    given = run_of(scripts, made, tmp_path, "--precision", "bf16", "--max-steps", "2", "--save-every", "1")
    checkpoints = trained(scripts, given)
    path = checkpoints.path(2) / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(scripts.problems.UserError) as caught:
        scripts.train.fit(given, checkpoints, checkpoints.last(), scripts.train.Interrupts())
    assert str(caught.value).startswith(f"{checkpoints.path(2)} is damaged (")
    assert said in str(caught.value)


def test_checkpoints_are_of_one_run_at_a_time_and_nothing_else_is_removed_with_them(
    tmp_path: Path, scripts: ModuleType
) -> None:
    module, folder = scripts.checkpoints, tmp_path / "mine"
    checkpoints = module.Checkpoints(folder, 1)
    with checkpoints.alone():
        with pytest.raises(scripts.problems.UserError, match="mine: another run is training with these checkpoints"):
            module.Checkpoints(folder, 1).alone().__enter__()
        checkpoints.begin(module.State([1.0]), lambda folder, save: save({"w": torch.ones(3)}, folder / "w"), {})
        checkpoints.finish()
    assert [path.name for path in folder.iterdir()] == ["step-000001"]
    for name in ("thesis.tex", "step-000007", "step-2"):
        (folder / name).mkdir()
        with pytest.raises(scripts.problems.UserError, match=f"mine/{name}: no whole checkpoint: remove it, or choose"):
            checkpoints.alone().__enter__()
        checkpoints.clear()
        assert [path.name for path in folder.iterdir()] == [name]
        (folder / name).rmdir()
    with checkpoints.alone():
        pass
    assert list(tmp_path.iterdir()) == []
