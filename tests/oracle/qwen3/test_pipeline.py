"""./run and train.sh, run as a user would."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.cluster.conftest import embedded
from tests.oracle.qwen3.conftest import ENVIRONMENT, EXAMPLE, run

ROOT = EXAMPLE.parents[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--epoch", "3"],
            "train.sh: unrecognized arguments: --epoch 3; did you mean '--epochs'? (--help lists the options)",
        ),
        (["--lr", "fast"], "train.sh: argument --lr: fast is not a non-negative number (--help lists the options)"),
        (["--model"], "train.sh: argument --model: expected one argument (--help lists the options)"),
        (
            ["--batch-size=0"],
            "train.sh: argument --batch-size: 0 is not a positive integer (--help lists the options)",
        ),
    ],
)
def test_wrong_arguments_are_told_at_once_in_one_line(arguments: list[str], said: str) -> None:
    done = run("train.sh", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said + "\n")


def test_a_preview_is_not_a_training(tmp_path: Path) -> None:
    done = run("train.sh", "--preview", "1", "--runs", str(tmp_path / "runs"))
    said = "./train.sh trains; for --preview run prepare_data.py with the same arguments\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_beside_plain_pytorch_is_one_warning() -> None:
    done = run("train.sh", "--help", USE_PYTORCH="1", GT_CONFIG="sharding/dp2.yaml")
    said = (
        "train.sh: GT_CONFIG=sharding/dp2.yaml does nothing under USE_PYTORCH=1: plain PyTorch runs in this process alone\n"
    )
    assert (done.returncode, done.stderr) == (0, said)


@pytest.mark.parametrize(("program", "said"), [(ROOT / "run", "./run"), (EXAMPLE / "train.sh", "./train.sh")])
def test_help_speaks_of_what_was_called_and_shows_every_default(program: Path, said: str, scripts: ModuleType) -> None:
    done = run(program.name, "--help", folder=program.parent)
    assert (done.returncode, done.stderr) == (0, "")
    usage, _, rest = done.stdout.partition("\n\n")
    assert usage.startswith(f"usage: {said} [-h] [--model")
    assert re.sub(r"\[[^]]*\]", "", usage).split() == ["usage:", said]
    options = re.split(r"\n  (?=-)", rest)[1:]
    shown = {text.split(maxsplit=1)[0]: re.findall(r"\(default: ([^)]*)\)", " ".join(text.split())) for text in options}
    assert shown.pop("-h,") == []
    for action in scripts.options.parser(None)._actions[1:]:
        (default,) = shown.pop(action.option_strings[0])
        if action.default not in (None, False) and action.dest != "runs":
            assert default.startswith(str(action.default))
        if action.dest in scripts.options.TINY:
            assert default.endswith(f"; {scripts.options.TINY[action.dest]} for the tiny model")
    assert shown == {}


def test_the_tiny_model_has_defaults_of_its_own(scripts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*arguments: str) -> dict[str, object]:
        monkeypatch.setattr(sys, "argv", ["train.py", "--runs", "~/r", *arguments])
        return vars(scripts.options.parse(None))

    home = Path.home()
    tiny = parsed()
    assert {key: tiny[key] for key in scripts.options.TINY} == {"epochs": 16, "batch_size": 16, "lr": 3e-3}
    assert tiny["out"] == home / "r" / "tiny-qwen3-tiny-alpaca-tuned"
    assert parsed("--epochs", "2")["epochs"] == 2
    named = parsed("--model=Qwen/Qwen3-1.7B", "--data", "tatsu-lab/alpaca", "--data-revision", "1")
    assert {key: named[key] for key in scripts.options.TINY} == {"epochs": 3, "batch_size": 2, "lr": 1e-5}
    assert named["prepared"] == home / "r" / "Qwen3-1.7B-alpaca-prepared"
    assert named["made_of"] == {"model": "Qwen/Qwen3-1.7B", "data": "tatsu-lab/alpaca@1"}


def test_a_fresh_clone_sets_itself_up(tmp_path: Path) -> None:
    """A fake Python records its arguments; all commands share one set-up, which runs once."""
    for name in ("run", "scripts/setup.sh", "pyproject.toml", "constraints.txt", "examples/qwen3/train.sh"):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    python = tmp_path / "bin" / "python3.13"
    python.parent.mkdir()
    python.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/asked
echo "${{OMP_NUM_THREADS:-all}}" > {tmp_path}/threads
[ "$2" != venv ] || {{ mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; }}
""")
    python.chmod(0o755)
    example, top = tmp_path / "clone" / "examples" / "qwen3", tmp_path / "clone"
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["./train.sh", "--epochs", "1"], cwd=example, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == "setting up .venv (example; a few minutes the first time)\n"
    _, venv, pip, *steps = (tmp_path / "asked").read_text().splitlines()
    assert venv == f"-m venv {top}/.venv"
    assert pip.endswith(f"--constraint {top}/constraints.txt --editable {top}[example]")
    names = ("options.py", "load_weights.py", "prepare_data.py", "train.py")
    assert steps == [f"{example}/{name} --epochs 1" for name in names]
    again = subprocess.run([top / "run", "--out", "here"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")
    assert (tmp_path / "asked").read_text().splitlines()[7:] == [f"{example}/{name} --out here" for name in names]
    for options, threads in (([], "1"), (["--model", "m"], "all"), (["--preset=4B"], "all"), (["--config", "y"], "all")):
        subprocess.run(["./train.sh", *options], cwd=example, env=environment, check=True)
        assert (tmp_path / "threads").read_text() == f"{threads}\n"


def descendants(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]


@pytest.mark.parametrize(
    ("number", "plain", "line"), [(signal.SIGKILL, "0", "Converting weights"), (signal.SIGTERM, "1", "  Batch 1/")]
)
def test_nothing_outlives_the_shell(number: signal.Signals, plain: str, line: str, made: Path, tmp_path: Path) -> None:
    paths = ["--model", str(made / "qwen3"), "--data", str(made / "data.json"), "--runs", str(tmp_path / "runs")]
    options = ["--epochs", "1000", "--no-eval", "--log-every", "1", "--rows", "100", "--held-out=10", "--batch-size=10"]
    command = [EXAMPLE / "train.sh", *paths, *options]
    environment = {**ENVIRONMENT, "USE_PYTORCH": plain, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as shell:
        while not shell.stdout.readline().startswith(line):
            assert shell.poll() is None
        service = [*embedded(tmp_path), *embedded(tmp_path, "worker")]
        left = [os.pidfd_open(process) for process in (*descendants(shell.pid), *service)]
        assert len(left) >= (1 if plain == "1" else 3)
        shell.send_signal(number)
        assert shell.wait(30) == -number
        for process in left:
            assert select.select([process], [], [], 30)[0], Path(f"/proc/self/fdinfo/{process}").read_text()
            os.close(process)


def test_a_step_whose_shell_is_gone_already_does_not_begin(tmp_path: Path) -> None:
    done = run("options.py", "--runs", str(tmp_path), TRAIN_SH="1")
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def printed(text: str) -> list[str]:
    """Lines without numbers, answers and the path of the runs; duplicates removed."""
    for differs, same in (
        (r"-> .*", "->"),
        (r"Saved .*runs/", "Saved runs/"),
        (r"\d[\d,.]*(e-\d+)?", "N"),
        (r"^ *\.\.\.$", ""),
    ):
        text = re.sub(differs, same, text, flags=re.M)
    return list(dict.fromkeys(filter(None, text.splitlines())))


def test_a_run_prints_what_the_readme_says_and_leaves_a_log_and_its_results(tmp_path: Path) -> None:
    """A complete but shorter run; output that does not depend on training time must match exactly."""
    (expected,) = re.findall(r"## Expected output\n.*?\n\n(.*?)\n\n## ", (EXAMPLE / "README.md").read_text(), re.S)
    expected = re.sub("^    ", "", expected, flags=re.M)
    log = {"GT_WORKER_BATCH_SIZE": "10", "GT_INSTRUCTION_LOG": "debug.log"}
    done = run("train.sh", "--runs=runs", "--max-steps", "2", "--log-every", "1", cwd=tmp_path, **log)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.replace(" --max-steps 2", "", 1)
    before = [re.sub(r"has .*B free", "has room", text.partition("Epoch 1/16")[0]) for text in (shown, expected)]
    assert before[0] == before[1]
    assert printed(shown) == printed(expected)
    assert (tmp_path / "debug.log").stat().st_size > 0
    tiny = ("tiny-alpaca.json", "tiny-qwen3", "tiny-qwen3-tiny-alpaca-prepared", "tiny-qwen3-tiny-alpaca-tuned")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [*tiny]
