"""A program that goes on after its workers, or the dispatcher, were killed; and what a kill leaves of a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file

from tests.cluster.conftest import alive, embedded, eventually, go_on, line, serving, start
from tests.cluster.test_gangs import ONE_THREAD, add_worker

GOES_ON = """
import sys
import gt as torch
from gt.errors import ConnectionLostError, WorkerLostError
torch.manual_seed(7)

def first_numbers():
    return torch.nn.functional.dropout(torch.ones(64)).tolist(), torch.rand(2, device=torch.device("cpu")).tolist()

def begins(path):
    global lost, saving
    big = torch.full((30_000_000,), 2.0)
    lost = torch.ones(3)
    total = lost.sum().item()
    saving = torch.files.save_safetensors({"x": big}, path, background=True)
    print(total)

def is_lost(use):
    try:
        print("a value:", use())
    except RuntimeError as error:
        return "lost" in str(error) or "not known" in str(error)

seeded = first_numbers()
for _ in range(2):
    begins(sys.argv[1])
    input()
    try:
        while True:
            torch.ones(3).sum().item()
    except (ConnectionLostError, WorkerLostError) as error:
        print(type(error).__name__)
    torch.reopen(60)
    writes = lambda: lost[:2].copy_(torch.zeros(2).cpu())
    print(is_lost(lambda: lost.sum().item()), is_lost(writes), first_numbers() == seeded)
try:
    saving.wait()
except ConnectionLostError as error:
    print(error)
torch.files.save_safetensors({"x": torch.zeros(2)}, sys.argv[1])
"""


def test_a_killed_worker_or_dispatcher_of_an_embedded_service_is_replaced_and_the_file_before_stays(tmp_path: Path) -> None:
    own, saved = tmp_path / "own", tmp_path / "saved"
    own.mkdir()
    saved.mkdir()
    path = saved / "x.safetensors"
    path.write_bytes(b"before")
    client, left = start(GOES_ON, str(path), TMPDIR=str(own)), {path.name}
    for role in ("worker", "serve"):
        eventually(lambda left=left: set(os.listdir(saved)) - left)  # it is being written
        (worker,), (pid,) = embedded(own, "worker"), embedded(own, role)
        os.kill(worker, signal.SIGSTOP)
        assert line(client) == "3.0"  # the client waits for nothing any more
        os.kill(pid, signal.SIGKILL)
        if role == "serve":
            os.kill(worker, signal.SIGCONT)
        eventually(lambda pid=pid: not alive(pid))
        assert path.read_bytes() == b"before"
        left = {*os.listdir(saved)}
        go_on(client)
        assert line(client).endswith("LostError")
        assert line(client) == "True True True"
    assert "before the file was known to be in its place" in line(client)
    _, said = client.communicate(timeout=60)
    assert (client.returncode, said.count("RuntimeWarning: a file that was saved in the background")) == (0, 2), said
    assert load_file(path)["x"].tolist() == [0, 0]
    assert os.listdir(saved) == ["x.safetensors"]


GANG = """
import gt as torch
from gt.errors import ConnectionLostError, WorkerLostError
torch.sharding(mesh={"dp": 2}, params={"**": {"dp": "fully_shard"}}, inputs={"*": {"dp": "shard(0)"}})

def loss():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Dropout(0.5))
    model(torch.ones(4, 8)).sum().backward()
    return model, model(torch.ones(4, 8)).sum().item()

old, before = loss()
print("trains")
for _ in range(2):
    input()
    try:
        while True:
            torch.ones(3).sum().item()
    except (ConnectionLostError, WorkerLostError) as error:
        print(type(error).__name__)
    torch.reopen(60, report=lambda text: print("report", text.replace(chr(10), " ")))
    new, after = loss()
    print(after == before, len(torch.debug.where(new[0].weight).workers))
    try:
        print(old[0].weight.sum().item())
    except RuntimeError as error:
        print("not known" in str(error))
"""


@contextmanager
def serving_at(address: str) -> Iterator[None]:
    command = [sys.executable, "-m", "gt", "serve", "--address", address, "--workers", "2"]
    process = subprocess.Popen(command, env={**os.environ, **ONE_THREAD, "GT_ROLE": "dispatcher"})
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def next_result(client: subprocess.Popen[str]) -> str:
    """What a client says after its reports."""
    while (said := line(client)).startswith("report waiting up to "):
        pass
    return said


def test_a_gang_is_whole_again_when_its_service_is() -> None:
    with serving("--workers", "2", **ONE_THREAD) as service:
        client = start(GANG, GT_ADDRESS=service.address)
        try:
            assert line(client) == "trains"
            os.kill(service.workers()[0], signal.SIGKILL)
            go_on(client)
            assert line(client).endswith("LostError")
            said = line(client)
            assert said.startswith("report waiting up to 60 s: "), said
            assert "needs 2 workers, the service has 1" in said
            added = add_worker(service)
            try:
                assert [next_result(client), line(client)] == ["True 2", "True"]
                service.process.kill()
                go_on(client)
                assert line(client) == "ConnectionLostError"
                added.wait(10)
            finally:
                added.kill()
                added.wait()
            assert line(client).startswith("report waiting up to 60 s: ")
            service.process.wait()
            with serving_at(service.address):
                assert [next_result(client), line(client)] == ["True 2", "True"]
        finally:
            client.kill()
            client.communicate()
