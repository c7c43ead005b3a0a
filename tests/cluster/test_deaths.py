"""Killed clients, workers and dispatchers: what ends with them, and who is told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import LOSS, Service, alive, children, embedded, eventually, go_on, line, start
from tests.conftest import Run


@pytest.mark.parametrize("either", ["ipc", pytest.param("tcp", marks=pytest.mark.long)], indirect=True)
def test_a_killed_client_frees_all_it_had(either: Service) -> None:
    hold = "import gt, time\nx = gt.ones(1000, 1000)\nprint(gt.debug.stats().sessions)\ntime.sleep(60)"
    watch = "import gt, time\nwhile True:\n    print(gt.debug.stats().sessions)\n    time.sleep(0.05)"
    watcher = start(watch, GT_ADDRESS=either.address)
    assert line(watcher) == "1"
    holder = start(hold, GT_ADDRESS=either.address)
    eventually(lambda: line(watcher) == "2")
    holder.kill()
    assert eventually(lambda: line(watcher) == "1") < 5
    watcher.kill()
    holder.wait()
    watcher.wait()


@pytest.mark.parametrize("either", ["tcp", pytest.param("ipc", marks=pytest.mark.long)], indirect=True)
def test_a_client_that_is_killed_with_a_long_queue_is_gone_within_five_seconds(either: Service) -> None:
    flood = """
import gt
m = gt.full((700, 700), 1e-3)
m.sum().item()
print("begun")
for _ in range(4000):
    m = m @ m * 1e-3
print("queued")
m.sum().item()
"""
    client = start(flood, GT_ADDRESS=either.address)
    assert [line(client), line(client)] == ["begun", "queued"]
    client.kill()
    began = time.monotonic()
    after = start("import gt\nprint(gt.debug.stats().sessions)", GT_ADDRESS=either.address, GT_CONNECT_TIMEOUT_S="60")
    assert line(after) == "1"
    imports = start("import gt\nprint(1)", GT_ADDRESS=either.address)
    took, began = time.monotonic() - began, time.monotonic()
    assert line(imports) == "1"
    assert took - (time.monotonic() - began) < 5
    client.wait(10)
    after.wait(10)
    imports.wait(10)


def test_a_worker_that_dies_is_named_within_five_seconds(doomed: Service) -> None:
    client = start(LOSS, GT_ADDRESS=doomed.address)
    assert line(client) == "3.0"
    (worker,) = doomed.workers()
    os.kill(worker, signal.SIGKILL)
    began = time.monotonic()
    said = line(client)
    assert time.monotonic() - began < 5
    assert said.startswith("WorkerLostError")
    assert f"pid {worker}" in said
    client.wait(10)


def test_a_dispatcher_that_dies_is_an_error_within_five_seconds(doomed: Service) -> None:
    client = start(LOSS, GT_ADDRESS=doomed.address)
    assert line(client) == "3.0"
    workers = doomed.workers()
    doomed.process.kill()
    began = time.monotonic()
    said = line(client)
    assert time.monotonic() - began < 5
    assert said.startswith("ConnectionLostError")
    client.wait(10)
    for pid in workers:
        eventually(lambda pid=pid: not alive(pid), 5)


def test_an_embedded_service_ends_with_a_client_that_is_killed(tmp_path: Path) -> None:
    hold = "import gt, time\nprint(gt.ones(2).sum().item())\ntime.sleep(60)"
    client = start(hold, TMPDIR=str(tmp_path))
    assert line(client) == "2.0"
    (service,) = embedded(tmp_path)
    (worker,) = children(service)
    client.kill()
    client.wait()
    eventually(lambda: not alive(service) and not alive(worker), 5)
    assert list(tmp_path.iterdir()) == []


def test_an_embedded_service_ends_with_a_client_that_exits(tmp_path: Path, run_python: Run) -> None:
    own = tmp_path / "own"
    own.mkdir()
    done = run_python("import gt\nprint(gt.ones(2).sum().item())", TMPDIR=str(own))
    assert done.stdout == "2.0\n", done.stderr
    assert done.stderr == ""
    assert list(own.iterdir()) == []


def test_an_embedded_worker_that_dies_is_an_error_and_no_hang(tmp_path: Path) -> None:
    client = start(LOSS, TMPDIR=str(tmp_path))
    assert line(client) == "3.0"
    (service,) = embedded(tmp_path)
    (worker,) = children(service)
    os.kill(worker, signal.SIGKILL)
    began = time.monotonic()
    assert "Lost" in line(client)
    assert time.monotonic() - began < 5
    client.wait(10)


def test_an_embedded_worker_that_dies_while_nobody_uses_it_is_named_later(tmp_path: Path) -> None:
    client = start(
        """
import gt
from gt.errors import WorkerLostError
x = gt.ones(3)
print(x.sum().item(), flush=True)
input()
try:
    print(x.sum().item())
except WorkerLostError as error:
    print(error)
""",
        TMPDIR=str(tmp_path),
    )
    assert line(client) == "3.0"
    (service,) = embedded(tmp_path)
    (worker,) = children(service)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not alive(service))
    go_on(client)
    assert line(client).startswith("worker worker0 (pid ")
