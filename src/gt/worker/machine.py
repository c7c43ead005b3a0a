"""The memory of the device that a worker computes on, and of its process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def total_bytes(device: torch.device) -> int:
    """All of the device's memory; of a CPU the machine's, or less where a control group limits this process."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *(limit for limit, _ in _groups())])


def free_bytes(device: torch.device) -> int:
    """What new tensors can have of it now: on a CPU without swapping, and within the limits of its control groups."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    whole = _figures(PROC / "meminfo", "MemAvailable:") * 1024
    return max(0, min([whole, *(limit - used for limit, used in _groups())]))


def peak_resident_bytes() -> int:
    """The most memory that this process had. `getrusage` also counts what its parent had when it was started."""
    return _figures(PROC / "self" / "status", "VmHWM:") * 1024


def _groups() -> Iterator[tuple[int, int]]:
    """The limit and the use, in bytes, of every control group that this process is in and that limits memory.

    Files that are only cached do not count as use, since the kernel drops them (docs.kernel.org/admin-guide/cgroup-v2.html).
    """
    with suppress(OSError, ValueError):
        for line in (PROC / "self" / "cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                yield from _limits(CGROUPS, path, "memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
                yield from _limits(CGROUPS / "memory", path, *names)


def _limits(root: Path, path: str, limit: str, use: str, cached: str) -> Iterator[tuple[int, int]]:
    """Those of a group and of the groups around it, up to the one that this process sees as the root."""
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        with suppress(OSError, ValueError):  # the root has no limit; "max" is no number
            most = int((folder / limit).read_text())
            yield most, int((folder / use).read_text()) - _figures(folder / "memory.stat", cached)
        if folder == root:
            break


def _figures(path: Path, name: str) -> int:
    """The number behind a name in a file of names and numbers; 0 where it is not there."""
    for line in path.read_text().splitlines():
        if line.split(maxsplit=1)[:1] == [name]:
            return int(line.split()[1])
    return 0
