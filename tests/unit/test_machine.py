"""What a worker on a CPU says of the machine's memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gt.worker import machine

CPU = torch.device("cpu")
GIB = 1 << 30
V2 = "0::/user/job\n"
V1 = "3:cpu:/job\n2:memory:/job\n"
NO_LIMIT = 9223372036854771712
"""What version 1 says where there is none."""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 16 GiB, 10 of them available."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4 << 20}[name])
    write(tmp_path / "proc", meminfo=f"MemTotal: {16 << 20} kB\nMemFree: 5 kB\nMemAvailable: {10 << 20} kB")
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def seen() -> tuple[float, float]:
    return machine.free_bytes(CPU) / GIB, machine.total_bytes(CPU) / GIB


def test_without_control_groups_it_is_what_the_kernel_says_is_available(system: Path) -> None:
    assert seen() == (10, 16)


def test_the_narrowest_group_around_the_process_counts_and_cached_files_are_no_use(system: Path) -> None:
    write(system / "proc" / "self", cgroup=V2)
    job, user = system / "cgroup" / "user" / "job", system / "cgroup" / "user"
    write(job, memory__max="max", memory__current=6 * GIB, memory__stat="")
    write(user, memory__max=8 * GIB, memory__current=7 * GIB, memory__stat=f"anon 1\ninactive_file {2 * GIB}")
    assert seen() == (3, 8)
    write(job, memory__max=7 * GIB)
    assert seen() == (1, 7)
    write(job, memory__current=9 * GIB)
    assert seen() == (0, 7)


def test_groups_of_version_1(system: Path) -> None:
    write(system / "proc" / "self", cgroup=V1)
    root = system / "cgroup" / "memory"
    figures = {"memory__usage_in_bytes": 3 * GIB, "memory__stat": f"total_inactive_file {GIB}"}
    write(root, memory__limit_in_bytes=NO_LIMIT, **figures)
    assert seen() == (10, 16)
    write(root / "job", memory__limit_in_bytes=4 * GIB, **figures)
    assert seen() == (2, 4)


def test_the_most_memory_of_a_process_is_its_own_whoever_started_it() -> None:
    large = torch.ones(1 << 30, dtype=torch.uint8)
    code = "from gt.worker.machine import peak_resident_bytes\nprint(peak_resident_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "GT_ROLE": "worker"}, check=True
    )
    assert 10 << 20 < int(done.stdout) < large.nbytes < machine.peak_resident_bytes()
