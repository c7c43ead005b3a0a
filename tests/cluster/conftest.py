"""A service of real processes on a private socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import free_ports

PATIENCE_S = 60.0


def eventually(what: Callable[[], bool], within_s: float = PATIENCE_S) -> float:
    """Wait until a condition holds; returns the seconds it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < within_s, f"not within {within_s} s"
        time.sleep(0.02)
    return time.monotonic() - began


def children(pid: int) -> list[int]:
    """Process ids of the living children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == pid and state != "Z":
                found.append(int(entry.name))
    return found


def embedded(folder: Path, role: str = "serve") -> list[int]:
    """Process ids of the services, or workers, of clients whose TMPDIR is `folder`; not children of the clients."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            own = any(a.startswith(b"ipc://%s/" % os.fsencode(folder)) for a in arguments)
            if own and role.encode() in arguments and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


_started: list[subprocess.Popen[str]] = []


def start(source: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a program, which ends with the test at the latest."""
    command = [sys.executable, "-u", "-c", source, *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment})
    _started.append(process)
    return process


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    """A test that fails leaves no program behind that would slow down the others."""
    yield
    for process in _started:
        process.kill()
        process.wait()
    _started.clear()


def go_on(process: subprocess.Popen[str]) -> None:
    """Let a program continue past its `input()`."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = process.stdout.readline().strip()
    if not found:
        assert process.stderr is not None
        raise AssertionError(process.stderr.read())
    return found


LOSS = """
import gt, time
x = gt.ones(3)
print(x.sum().item())
try:
    for _ in range(1000):
        (x * 2).sum().item()
        time.sleep(0.02)
except Exception as error:
    print(type(error).__name__, str(error).replace(chr(10), " "))
"""


@dataclass
class Service:
    address: str
    process: subprocess.Popen[bytes]

    def workers(self) -> list[int]:
        return children(self.process.pid)


@contextmanager
def serving(*arguments: str, scheme: str = "ipc", **settings: str) -> Iterator[Service]:
    """`gt serve` with one worker, ready."""
    with tempfile.TemporaryDirectory(prefix="gt-test-") as folder:
        address = f"ipc://{folder}/socket" if scheme == "ipc" else f"tcp://127.0.0.1:{free_ports()}"
        environment = {**os.environ, "GT_ROLE": "dispatcher", **settings}
        command = [sys.executable, "-m", "gt", "serve", "--address", address, "--workers", "1", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert b"serving" in process.stdout.readline()
        made = Service(address, process)
        try:
            yield made
        finally:
            workers = made.workers()
            process.send_signal(signal.SIGTERM)
            process.wait(10)
            for pid in workers:
                eventually(lambda pid=pid: not alive(pid), 10)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """The service that a file's tests use one after another; for tests that leave it and its worker as they were."""
    with serving() as made:
        yield made


@pytest.fixture(scope="module", params=["ipc", "tcp"])
def either(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Likewise, for tests that must pass over either transport."""
    with serving(scheme=request.param) as made:
        yield made


@pytest.fixture(params=["ipc", "tcp"])
def doomed(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service of a test's own, over either transport, of which it ends or stops a process."""
    with serving(scheme=request.param) as made:
        yield made
