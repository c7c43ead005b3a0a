"""Processes that wait for their turns: the sides of a comparison, whose steps alternate."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def peak_resident_bytes() -> int:
    """The most memory that this process had. `getrusage` also counts what its parent had when it was started."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


class Process:
    """A module of this package in its own process. It reads a line for every turn, and answers each with a line."""

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self) -> None:
        """Give the process its turn."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """What it says at the end of its turn. Raises RuntimeError if it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended with {self._process.wait()}")
        return line

    def end(self) -> None:
        """Tell the process that there are no more turns."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> None:
        """Wait for its end."""
        self._process.wait(60)


def medians(steps: Sequence[Callable[[], float]], warm_up: int, runs: int) -> list[float]:
    """The median of what each of several functions returns, called in turn; the first `warm_up` times do not count."""
    found: list[list[float]] = [[] for _ in steps]
    for run in range(warm_up + runs):
        for step, kept in zip(steps, found, strict=True):
            value = step()
            if run >= warm_up:
                kept.append(value)
    return [statistics.median(kept) for kept in found]
