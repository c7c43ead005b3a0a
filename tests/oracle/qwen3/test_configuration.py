"""A run's options in a YAML file say what they say as flags, and what is wrong in one is told in a line."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.oracle.qwen3.conftest import run


def test_a_configuration_file_says_what_the_options_say(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lr: 2e-3\nlora: true\nlora-targets: [q_proj, v_proj]\npack: false\nmax_steps: null\n")
    found = scripts.options.parse(None, told=["--config", str(file), "--lr", "1e-3"])
    assert (found.lr, found.lora, found.lora_targets, found.pack, found.max_steps) == (
        1e-3,
        True,
        ("q_proj", "v_proj"),
        False,
        None,
    )
    for options in ([], ["--fresh"], ["--model", "m"], ["--data", "d", "--resume"]):
        given = scripts.options.parse(None, told=["--config", str(file), *options])
        written = tmp_path / "options.yaml"
        written.write_text(yaml.safe_dump(scripts.options.resolved(given)))
        again = scripts.options.parse(None, told=["--config", str(written)])
        once = {"config", "fresh", "resume"}
        assert all(vars(again)[name] == value for name, value in vars(given).items() if name not in once)
        assert not again.fresh
        assert not again.resume


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lora_rnak: 4", "run.yaml:1: no option 'lora_rnak'; did you mean 'lora-rank'?"),
        ("lr: 1e-3\nlr: 1e-4", "run.yaml:2: lr is given twice"),
        ("epochs: many", "argument --epochs: many is not a positive integer"),
        ("lora: 3", "run.yaml:1: lora is 3, expected true or false"),
        ("lr: [1]", "run.yaml:1: lr is not a single value"),
        ("- lr", "run.yaml: expected lines of an option's name"),
        ("", "run.yaml: expected lines of an option's name"),
        ("lr: {", "run.yaml: not YAML: "),
        ("lora-rank: 4", "--lora-rank does nothing without --lora"),
        ("patience: 4", "--patience counts evaluations: give --eval-every too"),
        ("lora: true\nlora-alpha: 0", "argument --lora-alpha: 0 switches the adapters off, and nothing would be learnt"),
        ("out: a\ncheckpoints: a", "--out a lies in --checkpoints a: give folders of their own"),
        ("out: a/b\nprepared: a", "--out a/b lies in --prepared a: give folders of their own"),
    ],
)
def test_a_wrong_configuration_file_is_told_in_one_line(
    text: str, said: str, tmp_path: Path, scripts: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SystemExit):
        scripts.options.parse(None, "train.py", ["--config", str(tmp_path / "run.yaml")])
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_missing_configuration_file_is_told_in_one_line(tmp_path: Path) -> None:
    done = run("options.py", "--config", "none.yaml", cwd=tmp_path)
    assert done.stderr == "train.sh: none.yaml: No such file or directory (--help lists the options)\n"
