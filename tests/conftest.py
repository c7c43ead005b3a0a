"""Fixtures and helpers shared by all groups of tests."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from gt.client.session.random_sequence import sequence
from gt.config import settings

if settings().worker_threads:  # on both sides: sums depend on it
    torch.set_num_threads(settings().worker_threads)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # from `./test &`; programs that are started would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]
Result = TypeVar("Result")


@pytest.fixture
def run_python(tmp_path: Path) -> Run:
    """Run a script in its own process and folder; returns the completed process."""
    numbers = itertools.count()

    def run(source: str, *arguments: str, timeout_s: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        number = next(numbers)
        script = tmp_path / f"run{number}" / f"script{number}.py"
        script.parent.mkdir()
        script.write_text(source)
        return subprocess.run(
            [sys.executable, str(script), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=script.parent,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process and the worker draw separately, as in an unported program: other tests take torch's names from `gt`."""
    monkeypatch.setattr(sequence, "joined", False)
    monkeypatch.setattr(sequence, "there", True)


def side_by_side(*runs: Callable[[], Result]) -> list[Result]:
    """Call functions that wait for processes concurrently."""
    with ThreadPoolExecutor(len(runs)) as pool:
        return [future.result() for future in [pool.submit(run) for run in runs]]


def free_ports() -> int:
    """A loopback port such that nothing listens on it or on the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
