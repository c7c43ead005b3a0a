"""Sessions of several workers when something fails: who is told, within which time, and who goes on."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.conftest import Service, go_on, line, serving, start

SECONDS = os.environ.get("TEST_GANGS_S", "3")
"""How long two clients train on one service; a minute is more convincing."""
ONE_THREAD = {"GT_WORKER_THREADS": "1"}
TRAIN = """
import sys, time
import gt as torch
from gt.errors import WorkerLostError
axis = int(sys.argv[1])
torch.sharding(mesh={"dp": axis}, params={"**": {"dp": "replicate"}}, inputs={"*": {"dp": "shard(0)"}})

def begin():
    global model, optimizer, x
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8).to("remote")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.ones(8, 8).to("remote")

def begins_anew():
    try:
        begin()
        step().item()
    except WorkerLostError as error:
        return error

def step():
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss

begin()
print(" ".join(str(w.pid) for w in torch.debug.where(step()).workers))
"""
"""A program on as many workers as its argument says. Says their process ids once it trains."""
UNTIL_LOST = """
try:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        step().item()
        time.sleep(0.01)
except Exception as error:
    print(type(error).__name__, str(error).replace(chr(10), " "))
"""
AGAIN = """
print(str(begins_anew()).replace(chr(10), " "))
while begins_anew() is not None:
    time.sleep(0.1)
print(" ".join(str(w.pid) for w in torch.debug.where(step()).workers))
"""
ALONE = """
import time
import gt
x = gt.ones(3)
print(gt.debug.where(x).workers[0].pid)
while True:
    print(x.sum().item())
    time.sleep(0.05)
"""


@contextmanager
def gangs(workers: int) -> Iterator[Service]:
    with serving("--workers", str(workers), **ONE_THREAD) as service:
        yield service


@contextmanager
def program(service: Service, source: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A client that is killed in the end."""
    client = start(source, *arguments, GT_ADDRESS=service.address, GT_CONNECT_TIMEOUT_S="60")
    try:
        yield client
    finally:
        client.kill()
        client.communicate()


def pids(client: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in line(client).split()]


def add_worker(service: Service) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gt", "worker", "--connect", service.address]
    return subprocess.Popen(command, env={**os.environ, **ONE_THREAD})


def lost_after(client: subprocess.Popen[str], began: float) -> float:
    """The seconds until a client was told that its worker is lost."""
    said = line(client)
    assert said.startswith("WorkerLostError"), said
    return time.monotonic() - began


def test_a_killed_member_is_an_error_at_its_clients_and_others_go_on_and_a_new_one_makes_the_gang_whole() -> None:
    with (
        gangs(2) as service,
        program(service, TRAIN + UNTIL_LOST + AGAIN, "2") as first,
        program(service, TRAIN + UNTIL_LOST, "2") as second,
        program(service, ALONE) as alone,
    ):
        members = pids(first)
        assert sorted(members) == sorted(pids(second)) == sorted(service.workers())
        (own,) = pids(alone)
        victim = next(pid for pid in members if pid != own)
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        assert lost_after(first, began) < 5
        assert lost_after(second, began) < 5
        assert [line(alone) for _ in range(20)] == ["3.0"] * 20
        added = add_worker(service)
        try:
            assert "needs 2 workers, the service has 1" in line(first)
            assert len(set(pids(first)) - {victim}) == 2
        finally:
            added.kill()
            added.wait()


ONE_RANK = """
table = torch.nn.Sequential(torch.nn.Embedding(10, 4)).to("remote")
whole = table(torch.arange(8).to("remote")).sum().item()
wrong = torch.tensor([0, 1, 2, 3, 4, 5, 6, 77]).to("remote")  # in the part of the second worker
for reads in (lambda: table(wrong).sum().item(), lambda: (table(wrong).sum() * 0 + 1).item()):
    try:
        print("garbage", reads())
    except IndexError as error:
        print("issued at <string>:" in str(error), str(error).splitlines()[0])
print(table(torch.arange(8).to("remote")).sum().item() == whole)

assert input() == ""  # the second worker gets no memory any more
big = torch.nn.Identity()
rows = torch.ones(8, 1).to("remote")
for reads in (lambda: (big(rows) * torch.ones(1, 40_000_000).to("remote")).sum().item(),) * 2:
    try:
        print("garbage", reads())
    except RuntimeError as error:
        print(str(error).replace(chr(10), " "))
print(step().item() > 0)
"""


def test_an_error_on_one_worker_is_that_error_with_the_line_and_the_session_goes_on() -> None:
    with gangs(2) as service, program(service, TRAIN + ONE_RANK, "2") as client:
        _, second = pids(client)
        assert line(client).startswith("True index out of range")
        assert line(client).startswith("True index out of range")
        assert line(client) == "True"
        held = int(Path(f"/proc/{second}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(second, resource.RLIMIT_AS, (held + (256 << 20),) * 2)
        go_on(client)
        for _ in range(2):
            assert "allocate memory" in line(client)
        assert line(client) == "True"


def test_a_member_that_is_stopped_for_three_seconds_and_killed_is_an_error_within_five() -> None:
    with gangs(2) as service, program(service, TRAIN + UNTIL_LOST, "2") as client, program(service, ALONE) as alone:
        members = pids(client)
        (own,) = pids(alone)
        (victim,) = set(members) - {own}
        os.kill(victim, signal.SIGSTOP)
        began = time.monotonic()
        threading.Timer(3, lambda: os.kill(victim, signal.SIGKILL)).start()
        assert lost_after(client, began) < 5
        assert [line(alone) for _ in range(20)] == ["3.0"] * 20


def test_two_clients_at_once_and_one_that_is_killed_while_a_worker_waits_for_its_peer() -> None:
    endless = "print('begins')\nwhile True:\n    step()\n"
    timed = """
until, steps = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < until:
    step().item()
    steps += 1
print(steps)
"""
    with gangs(2) as service:
        with program(service, TRAIN + timed, "2", SECONDS) as one, program(service, TRAIN + timed, "2", SECONDS) as other:
            assert pids(one) == pids(other)
            assert min(int(line(one)), int(line(other))) > 2
        with program(service, TRAIN + endless, "2") as killed:
            first, second = pids(killed)
            assert line(killed) == "begins"
            os.kill(second, signal.SIGSTOP)
            time.sleep(0.2)  # the first worker comes to wait for the second
            killed.kill()
            time.sleep(0.5)
            os.kill(second, signal.SIGCONT)
        with program(service, ALONE) as alone, program(service, ALONE) as another:
            assert {*pids(alone), *pids(another)} == {first, second}
            assert [line(alone), line(another)] == ["3.0", "3.0"]


def test_several_workers_share_the_cores_and_a_program_that_leaves_some_idle_is_told_once() -> None:
    program = "import gt as torch\nprint(torch.ones(2).sum().item())\nprint(torch.debug.stats().threads)"
    cores = len(os.sched_getaffinity(0))
    for workers, told in (("2", 1), ("1", 0)):
        environment = {**os.environ, "GT_WORKERS": workers}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
        total, threads = done.stdout.split()
        assert total == "2.0"
        assert workers == "1" or int(threads) == max(1, cores // 2)
        assert done.stderr.count(f"has {workers} workers to itself and uses one of them") == told


def test_fewer_workers_than_the_mesh_needs_are_refused_at_once_and_the_program_may_go_on_without_it() -> None:
    program = """
import gt as torch
from gt.errors import ConfigError
try:
    torch.sharding(mesh={"dp": 2}, inputs={"*": {"dp": "shard(0)"}})
except ConfigError as error:
    print(error)
print(torch.ones(2).sum().item())
"""
    environment = {**os.environ, **ONE_THREAD, "GT_WORKERS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    refused, went_on = done.stdout.splitlines()
    assert refused.endswith("needs 2 workers, GT_WORKERS=1 starts 1; without GT_WORKERS there are as many as it needs")
    assert went_on == "2.0"


SHARDED = """
import gt as torch
torch.sharding(mesh={"dp": 2}, params={"**": {"dp": "fully_shard"}}, inputs={"*": {"dp": "shard(0)"}})
model = torch.nn.Linear(256, 512, bias=False)
model(torch.ones(4, 256)).sum().backward()
for worker in (0, 1):
    print(torch.debug.stats(worker).peak_tensor_bytes)
print(torch.accelerator.memory_stats()["peak_tensor_bytes"])
"""


def test_statistics_and_the_log_are_those_of_each_worker(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**os.environ, **ONE_THREAD, "GT_INSTRUCTION_LOG": str(log)}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, timeout=120)
    first, second, most = map(int, done.stdout.split())
    whole_bytes = 4 * 256 * 512
    assert whole_bytes < min(first, second)
    assert most == max(first, second)
    shown = subprocess.run(
        [sys.executable, "-m", "gt", "log", str(log), "--op", "All*"], capture_output=True, text=True, timeout=60
    )
    lines = shown.stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["worker0", "worker1"]
    assert all(re.search(r"  AllGather +\(\d+:float32\[65536\]\) -> \d+:float32 axis=0$", line) for line in lines), lines
