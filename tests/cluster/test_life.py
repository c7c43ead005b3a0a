"""The service and its program: the signals and imports of each, and which ends with which."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import torch

from gt import life
from gt.client.session.embedded import Embedded
from gt.client.session.embedded import start as start_service
from tests.cluster.conftest import alive, embedded, eventually, go_on, line, start

ADD = "import gt as torch; print(torch.ones(3).sum().item(), flush=True)\n"
MARK = "\nimport os; open(os.environ['TMPDIR'] + '/mark', 'a').write(__file__)"


def processes(folder: Path) -> list[int]:
    return embedded(folder) + embedded(folder, "worker")


def python(*arguments: str, folder: Path, source: str = "", **environment: str) -> tuple[str, str]:
    """The output of a program in `folder` that reads `source`."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, input=source, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    return done.stdout, done.stderr


def test_signals_to_every_process_of_the_job_reach_the_program_alone(tmp_path: Path) -> None:
    count = f"""
import signal, time
seen = []
for number in {sorted(map(int, life.OF_THE_JOB))}: signal.signal(number, lambda n, _: seen.append(n))
{ADD}
input()
for _ in range(1000):  # any thread may have got them
    if len(seen) < {len(life.OF_THE_JOB)}: time.sleep(0.01)
print(len(seen), torch.ones(3).sum().item())
input()
"""
    program = start(count, TMPDIR=str(tmp_path))
    eventually(lambda: bool(embedded(tmp_path)), 30)
    for number in life.OF_THE_JOB:  # while Python starts there
        for pid in embedded(tmp_path):
            with suppress(ProcessLookupError):  # the process that only starts it ends at once
                os.kill(pid, number)
    eventually(lambda: bool(embedded(tmp_path, "worker")), 30)
    for number in life.OF_THE_JOB:  # while it imports torch
        os.kill(embedded(tmp_path, "worker")[0], number)
    assert line(program) == "3.0"
    for pid in (*processes(tmp_path), program.pid):
        for number in life.OF_THE_JOB:
            os.kill(pid, number)
    go_on(program)
    assert line(program) == f"{len(life.OF_THE_JOB)} 3.0"
    program.kill()
    program.wait()
    eventually(lambda: processes(tmp_path) == [], 5)
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_is_killed_leaves_no_file_behind(tmp_path: Path) -> None:
    program = start(ADD + "input()\n", TMPDIR=str(tmp_path))
    assert line(program) == "3.0"
    for pid in embedded(tmp_path):
        os.kill(pid, signal.SIGKILL)
    go_on(program)
    program.wait(30)
    eventually(lambda: processes(tmp_path) == [], 5)
    assert list(tmp_path.iterdir()) == []


def test_a_program_may_wait_for_all_of_its_children(tmp_path: Path) -> None:
    wait = f"""
import os, signal
{ADD}
heard = []
signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))
for code in range(2):
    if os.fork() == 0: os._exit(code)
codes = []
while len(codes) < 3:
    try: codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
    except ChildProcessError: break
print(sorted(codes), len(heard) <= 2)
torch.disconnect()
print(len(heard) <= 2)
"""
    assert python("-c", wait, folder=tmp_path) == ("3.0\n[0, 1] True\nTrue\n", "")


def test_children_that_outlive_a_program_do_not_keep_its_service(tmp_path: Path) -> None:
    fork = f"""
import ctypes, os, time
{ADD}
libc = ctypes.CDLL(None)
by_c = libc.fork()
if by_c == 0: libc.pause()
by_python = os.fork()
if by_python == 0: time.sleep(600)
print(by_c, by_python, flush=True)
time.sleep(600)
"""
    program = start(fork, TMPDIR=str(tmp_path))
    assert line(program) == "3.0"
    children = [int(pid) for pid in line(program).split()]
    try:
        program.terminate()
        assert program.wait(10) == -signal.SIGTERM
        eventually(lambda: processes(tmp_path) == [], 5)
        assert all(map(alive, children))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def test_a_forked_child_has_a_service_of_its_own_that_ends_with_it(tmp_path: Path) -> None:
    fork = """
import os, sys
import gt as torch
child = os.fork()
if child == 0:
    print(torch.ones(3).sum().item(), flush=True)
    sys.exit()
os.waitpid(child, 0)
print((torch.ones(3) + 1).sum().item(), flush=True)
input()
print((torch.ones(3) + 2).sum().item(), flush=True)
"""
    program = start(fork, TMPDIR=str(tmp_path))
    assert [line(program), line(program)] == ["3.0", "6.0"]
    eventually(lambda: len(embedded(tmp_path)) == 1, 5)
    go_on(program)
    assert line(program) == "9.0"
    program.wait(30)
    eventually(lambda: processes(tmp_path) == [], 5)
    assert list(tmp_path.iterdir()) == []


def ready() -> Embedded:
    service = start_service()
    service.wait_ready(60)
    return service


def test_a_service_that_hangs_is_killed_when_it_is_to_end() -> None:
    service = ready()
    eventually(lambda: bool(embedded(service.folder, "worker")), 30)
    (pid,), workers = embedded(service.folder), embedded(service.folder, "worker")
    os.kill(pid, signal.SIGSTOP)
    assert not service.process.ended()
    service.process.stop(0.2)
    eventually(lambda: not any(map(alive, [pid, *workers])), 5)
    shutil.rmtree(service.folder)


def test_a_service_that_dies_while_it_starts_is_an_error_that_says_why(tmp_path: Path) -> None:
    out, error = python("-c", ADD, folder=tmp_path, GT_INSTRUCTION_LOG="/nowhere/log")
    assert (out, error.splitlines()[-1]) == ("", "gt: GT_INSTRUCTION_LOG=/nowhere/log: No such file or directory")
    assert "StartError: the embedded service ended:" in error


def test_no_module_of_the_users_folders_is_imported_by_the_service(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "train.py"
    script.write_text(ADD)
    for name in ("random", "queue", "select", "msgspec", "zmq", "numpy", "scripts/sitecustomize", "scripts/usercustomize"):
        (tmp_path / f"{name}.py").write_text(MARK)
    for name in ("gt", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(MARK)
    assert python(str(script), folder=tmp_path, TMPDIR=str(tmp_path)) == ("3.0\n", "")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", ["zip", "folder without site", pytest.param("folder", marks=pytest.mark.long)])
def test_the_service_runs_the_gt_of_the_programs_path(kind: str, tmp_path: Path) -> None:
    source = Path(life.__file__).parent
    home = tmp_path / ("own.zip" if kind == "zip" else "own")
    shutil.copytree(source, tmp_path / "own" / "gt", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "own" / "gt" / "cli.py").open("a") as file:  # a file that no program imports
        file.write(MARK)
    if kind == "zip":
        shutil.make_archive(str(tmp_path / "own"), "zip", tmp_path / "own")
        assert zipfile.is_zipfile(home)
    libraries = Path(msgspec.__file__).parent.parent
    find = f"import sys; sys.path[:0] = [{str(home)!r}]; sys.path.append({str(libraries)!r}); {ADD}"
    flags = "-IS" if kind == "folder without site" else "-I"
    assert python(flags, "-c", find, folder=tmp_path, TMPDIR=str(tmp_path)) == ("3.0\n", "")
    assert (tmp_path / "mark").read_text() == str(home / "gt" / "cli.py") * 2  # the dispatcher, the worker


def test_a_program_may_be_read_from_a_pipe_and_has_a_version(tmp_path: Path) -> None:
    out, error = python("-", folder=tmp_path, source=ADD + "print(torch.__version__, torch.version.__version__)")
    version, _ = python("-m", "gt", "--version", folder=tmp_path)
    assert (out.splitlines(), error) == (["3.0", f"{version.split()[1]} {torch.__version__}"], "")
