"""Anything but a regular file is refused at once, in every process that may read or write it, and nothing blocks."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gt import regular
from gt.dispatcher import log
from gt.errors import ConfigError
from gt.safetensors_format import DTYPES
from gt.wire.instructions import Geometry
from gt.worker import files

pytestmark = pytest.mark.timeout(30)
CPU = torch.device("cpu")
THREE = Geometry((3,), (1,), 0, "float32")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


NOT_REGULAR: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "a pipe"),
    "link to a pipe": (lambda path: (os.mkfifo(f"{path}.pipe"), path.symlink_to(f"{path}.pipe")), "a pipe"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "socket": (make_socket, "a socket"),
    "folder": (Path.mkdir, "Is a directory"),
}


@pytest.fixture(params=NOT_REGULAR)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The path of something other than a regular file, and its kind."""
    make, what = NOT_REGULAR[request.param]
    make(tmp_path / "x")
    return str(tmp_path / "x"), what


def save(path: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str], folders: tuple[str, ...] | None) -> None:
    """Write tensors as a worker does."""
    geometries = {name: Geometry(t.size(), t.stride(), 0, str(t.dtype)[6:]) for name, t in tensors.items()}
    writer = files.Writer(path, geometries, metadata, folders)
    try:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        writer.finish()
    finally:
        writer.close()


def test_a_worker_neither_reads_nor_writes_what_is_no_regular_file(place: tuple[str, str]) -> None:
    path, what = place
    with pytest.raises(OSError, match=what):
        files.load(path, "w", THREE, CPU, None)
    before = sorted(os.listdir(Path(path).parent))
    with pytest.raises(OSError, match=what):
        save(path, {"w": torch.ones(3)}, {}, None)
    assert sorted(os.listdir(Path(path).parent)) == before


def test_a_log_is_neither_written_to_nor_read_from_what_is_no_regular_file(place: tuple[str, str]) -> None:
    path, what = place
    with pytest.raises(ConfigError, match=what):
        log.InstructionLog(path)
    with pytest.raises(OSError, match=what):
        next(log.read(path))


def test_a_log_is_read_from_the_pipe_of_another_process() -> None:
    read, write = os.pipe()
    os.write(write, b'{"time":1.0,"session":1,"worker":"w","kind":"Op"}\n')
    os.close(write)
    try:
        assert [entry.kind for entry in log.read(f"/dev/fd/{read}")] == ["Op"]
    finally:
        os.close(read)


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for another user; tests may run as root
    with pytest.raises(PermissionError, match=str(path)):
        files.load(str(path), "w", THREE, CPU, None)


def test_a_file_is_written_whole_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x"
    (tmp_path / "x.1-1.partial").write_bytes(b"left by a process that was killed")
    (tmp_path / "x.1-2.partial").symlink_to("/nowhere/else")
    (tmp_path / "xy.1-1.partial").write_bytes(b"of another file")
    with open(tmp_path / "x.1-3.partial", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # its process is still writing
        save(str(path), {"w": torch.arange(3.0)}, {"a": "b"}, (str(tmp_path),))
    assert sorted(os.listdir(tmp_path)) == ["x", "x.1-2.partial", "x.1-3.partial", "xy.1-1.partial"]
    assert load_file(path)["w"].tolist() == [0.0, 1.0, 2.0]
    assert files.load(str(path), "w", THREE, CPU, (str(tmp_path),)).tolist() == [0.0, 1.0, 2.0]


def test_a_file_has_the_bytes_of_one_that_the_library_writes(tmp_path: Path) -> None:
    raw = torch.arange(32, dtype=torch.uint8)
    tensors = {f"{name}ü": raw.view(dtype).view(2, -1) for name, dtype in DTYPES.items() if dtype is not torch.bool}
    tensors |= {"bool": raw > 3, "scalar": torch.tensor(2.0), "none": torch.zeros(0, 3), "a.b": torch.ones(3, 4).t()}
    for metadata in ({}, {"format": "pt"}):
        save(str(tmp_path / "ours"), tensors, metadata, None)
        save_file({name: t.contiguous().clone() for name, t in tensors.items()}, tmp_path / "theirs", metadata)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_file_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"before")
    writer = files.Writer(str(tmp_path / "x"), {"w": THREE}, {}, None)
    writer.write("w", torch.ones(3))
    writer.close()
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"before"


def swap(monkeypatch: pytest.MonkeyPatch, name: str, path: Path, target: Path) -> None:
    """Replace `path` by a link between its check and its use."""
    original = getattr(regular, name)

    def swapped(given: str) -> object:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(target)
        return original(given)

    monkeypatch.setattr(regular, name, swapped)


def test_a_link_out_of_the_folders_is_found_however_late_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        save_file({"w": torch.zeros(3)}, folder / "x")
    (inside / "sub").mkdir()
    swap(monkeypatch, "held", inside / "x", outside / "x")
    with pytest.raises(PermissionError, match="not in a folder"):
        files.load(str(inside / "x"), "w", THREE, CPU, (str(inside),))
    swap(monkeypatch, "held_folder", inside / "sub", outside)
    with pytest.raises(PermissionError, match="not in a folder"):
        save(str(inside / "sub" / "x"), {"w": torch.ones(3)}, {}, (str(inside),))
    monkeypatch.undo()
    assert load_file(outside / "x")["w"].tolist() == [0.0] * 3
    assert os.listdir(outside) == ["x"]
