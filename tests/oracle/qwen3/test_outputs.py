"""Output folders: all or nothing, never over other content, and a finished result is never lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.oracle.qwen3.conftest import EXAMPLE, run

NAMES = ("first", "second")
MADE_OF = {"model": "m", "data": "d"}


@pytest.fixture
def write(scripts: ModuleType) -> Callable[..., None]:
    def write(out: Path, text: str, names: tuple[str, ...] = NAMES) -> None:
        scripts.folders.check_output(out, NAMES, MADE_OF)
        with scripts.folders.whole(out, NAMES, MADE_OF) as folder:
            for name in names:
                (folder / name).write_text(text)

    return write


def texts(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in out.iterdir() if path.is_file() and path.name != "made_of.json"}


def test_an_output_folder_is_replaced_whole_and_never_with_other_peoples_files(
    tmp_path: Path, write: Callable[..., None], scripts: ModuleType
) -> None:
    out = tmp_path / "out"
    write(out, "1")
    write(out, "2", ("first",))
    assert texts(out) == {"first": "2"}
    with pytest.raises(scripts.problems.UserError, match="cannot be written"):
        write(out, "3", ("missing/name",))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert sorted(p.name for p in out.iterdir()) == ["first", "made_of.json"]
    (out / "thesis.tex").touch()
    with pytest.raises(scripts.problems.UserError, match=r"holds thesis\.tex, which no earlier run wrote"):
        write(out, "4")


def test_links_and_the_working_directory_get_the_files(
    tmp_path: Path, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch" / "disk").mkdir(parents=True)
    (tmp_path / "scratch" / "disk" / "lost+found").mkdir()
    (tmp_path / "link").symlink_to("scratch/disk")
    monkeypatch.chdir(tmp_path / "scratch" / "disk")
    for text, out in enumerate((tmp_path / "link", Path("."), Path("../disk/"), tmp_path / "link")):
        write(out, str(text))
        assert texts(tmp_path / "scratch" / "disk") == dict.fromkeys(NAMES, str(text))
    assert os.readlink(tmp_path / "link") == "scratch/disk"


def test_what_cannot_be_an_output_is_refused_before_anything_is_done(
    tmp_path: Path, write: Callable[..., None], scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    shutil.copytree(EXAMPLE, tmp_path / "scripts", ignore=shutil.ignore_patterns("runs", "__pycache__"))
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "first").touch()
    for name, said in {
        "dangling": "dangling: a dangling link to nowhere",
        "loop": "loop: a dangling link to loop",
        "file": "file: not a folder",
        "scripts": "scripts: holds README.md, which no earlier run wrote",
        "checkpoint": "checkpoint: holds first, which no earlier run wrote",
    }.items():
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(scripts.problems.UserError, match=said):
            write(tmp_path / name, "new")
        assert sorted(tmp_path.rglob("*")) == before
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(scripts.problems.UserError, match=r"new: needs 2\.0 MB, but its disk has 1\.0 MB left"):
        scripts.folders.check_output(tmp_path / "new", NAMES, MADE_OF, 2 * 10**6)
    assert not (tmp_path / "new").exists()


def test_another_data_set_never_replaces_a_result(tmp_path: Path, write: Callable[..., None], scripts: ModuleType) -> None:
    write(tmp_path, "1")
    with pytest.raises(scripts.problems.UserError, match=r"was made from the data d, not from e; choose another folder"):
        scripts.folders.check_output(tmp_path, NAMES, MADE_OF | {"data": "e"})
    (tmp_path / "made_of.json").unlink()
    with pytest.raises(scripts.problems.UserError, match="holds first, which no earlier run wrote"):
        scripts.folders.check_output(tmp_path, NAMES, MADE_OF)


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV])
@pytest.mark.parametrize(("there", "fails"), [*((True, n) for n in range(1, 8)), *((False, n) for n in range(1, 5))])
def test_a_finished_result_is_kept_where_it_cannot_be_moved(
    code: int,
    there: bool,
    fails: int,
    tmp_path: Path,
    write: Callable[..., None],
    scripts: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever move fails, the old files are in place, the new ones are complete, and the message says where."""
    out = tmp_path / "out"
    if there:
        write(out, "old")
    calls, replace = iter(range(1, 100)), os.replace

    def fail(source: Path, target: Path) -> None:
        if next(calls) == fails:
            raise OSError(code, os.strerror(code), str(source), None, str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(scripts.problems.UserError, match="cannot be moved into place") as caught:
        write(out, "new")
    monkeypatch.undo()
    assert os.strerror(code) in str(caught.value)
    assert texts(out) == (dict.fromkeys(NAMES, "old") if there else {})
    kept = Path(str(caught.value).rpartition("complete in ")[2])
    assert texts(kept) == dict.fromkeys(NAMES, "new")
    with pytest.raises(scripts.problems.UserError, match=r"files that an earlier run could not move into place"):
        write(out, "newer")
    kept.rename(tmp_path / "elsewhere")
    write(out, "newer")
    assert texts(out) == dict.fromkeys(NAMES, "newer")


def test_what_comes_into_the_folder_during_training_does_not_lose_it(tmp_path: Path, scripts: ModuleType) -> None:
    def train() -> None:
        with scripts.folders.whole(tmp_path, NAMES, MADE_OF) as folder:
            (folder / "first").write_text("new")
            (tmp_path / "notes.txt").touch()

    with pytest.raises(scripts.problems.UserError, match=r"holds notes\.txt.*; it is complete in") as caught:
        train()
    assert texts(Path(str(caught.value).rpartition("complete in ")[2])) == {"first": "new"}


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path, write: Callable[..., None]) -> None:
    for name in (".partial-1", ".removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "first").touch()
    write(tmp_path, "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "made_of.json", "second"]


KILLED = """
import itertools, os, sys
from pathlib import Path
sys.path.insert(0, {example!r})
import folders
moment, replace, flush, calls = {moment}, os.replace, folders.flush, itertools.count(1)
def dies_after(act):
    def acts(*given):
        act(*given)
        if next(calls) == moment: os._exit(9)
    return acts
os.replace, folders.flush = dies_after(replace), dies_after(flush)
with folders.whole(Path({out!r}), {names!r}, {made_of!r}) as folder:
    for name in {names!r}: (folder / name).write_text("killed")
"""


@pytest.mark.parametrize(("there", "moment"), [*((False, n) for n in range(1, 6)), (True, 1)])
def test_what_a_killed_run_had_completed_is_moved_into_place_by_the_next(
    there: bool, moment: int, tmp_path: Path, write: Callable[..., None], scripts: ModuleType
) -> None:
    """It is killed after its files are on the disk, after one of them has been moved, ..., after all have been."""
    out = tmp_path / "out"
    if there:
        write(out, "old")
    script = KILLED.format(example=str(EXAMPLE), moment=moment, out=str(out), names=NAMES, made_of=MADE_OF)
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    scripts.folders.check_output(out, NAMES, MADE_OF)
    assert texts(out) == dict.fromkeys(NAMES, "killed")
    assert sorted(p.name for p in out.iterdir() if p.name != ".removed") == ["first", "made_of.json", "second"]
    write(out, "new")
    assert texts(out) == dict.fromkeys(NAMES, "new")
    assert sorted(p.name for p in out.iterdir()) == ["first", "made_of.json", "second"]


def test_what_others_have_written_meanwhile_is_not_replaced_by_what_a_killed_run_had_completed(
    tmp_path: Path, write: Callable[..., None], scripts: ModuleType
) -> None:
    script = KILLED.format(example=str(EXAMPLE), moment=1, out=str(tmp_path), names=NAMES, made_of=MADE_OF)
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    (tmp_path / "first").write_text("mine")
    with pytest.raises(scripts.problems.UserError, match=r"files that an earlier run could not move into place"):
        scripts.folders.check_output(tmp_path, NAMES, MADE_OF)
    assert texts(tmp_path) == {"first": "mine"}


def test_a_real_mount_point_gets_the_files(tmp_path: Path, scripts: ModuleType) -> None:
    """Needs a machine that lets a process have its own mounts; elsewhere an ordinary folder is used."""
    script = f"""
import sys; sys.path.insert(0, {str(EXAMPLE)!r})
from pathlib import Path
from folders import check_output, whole
for text in "12":
    check_output(Path("volume"), ("a",), {{}})
    with whole(Path("volume"), ("a",), {{}}) as folder:
        (folder / "a").write_text(text)
print(Path("volume/a").read_text(), Path("volume").is_mount())
"""
    (tmp_path / "volume").mkdir()
    mounts = subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
    mount = ["unshare", "-rm", "bash", "-c", 'mount -t tmpfs none volume && exec "$@"', "bash"] if mounts else []
    command = [*mount, sys.executable, "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout == f"2 {mounts}\n", done.stderr


def test_two_data_sets_of_one_name_do_not_share_what_is_made(made: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(made / "data.json", tmp_path / name)
    options = ["--model", str(made / "qwen3"), "--runs", "runs", "--rows", "60"]
    first = run("prepare_data.py", "--data", "a/data.json", *options, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    second = run("options.py", "--data", "b/data.json", *options, cwd=tmp_path)
    assert second.returncode == 1
    assert second.stderr == (
        f"runs/qwen3-data-prepared: was made from the data {tmp_path}/a/data.json, not from {tmp_path}/b/data.json;"
        " choose another folder\n"
    )
