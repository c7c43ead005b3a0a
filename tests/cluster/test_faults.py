"""Faults around a service: stopped processes, full disks, wrong addresses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.cluster.conftest import LOSS, Service, alive, embedded, eventually, line, serving, start
from tests.conftest import Run


def gt(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


@contextmanager
def listening(answer: bytes = b"") -> Iterator[int]:
    """A loopback port on which something other than a dispatcher listens."""

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            kept.append(peer)
            if answer:
                peer.sendall(answer)
                peer.close()

    kept: list[socket.socket] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("doomed", ["tcp", pytest.param("ipc", marks=pytest.mark.long)], indirect=True)
@pytest.mark.parametrize("stopped", ["worker", "dispatcher"])
def test_a_process_that_is_stopped_is_lost_within_five_seconds(stopped: str, doomed: Service) -> None:
    client = start(LOSS, GT_ADDRESS=doomed.address)
    assert line(client) == "3.0"
    pid = doomed.workers()[0] if stopped == "worker" else doomed.process.pid
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        said = line(client)
        assert time.monotonic() - began < 5
        assert said.startswith("WorkerLostError" if stopped == "worker" else "ConnectionLostError")
        client.wait(10)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_client_that_is_stopped_for_a_while_goes_on() -> None:
    source = "import gt\nx = gt.ones(3)\nprint(x.sum().item())\ninput()\nprint((x + 1).sum().item())"
    with serving() as service:
        command = [sys.executable, "-u", "-c", source]
        environment = {**os.environ, "GT_ADDRESS": service.address}
        pipe = subprocess.PIPE
        client = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
        assert line(client) == "3.0"
        client.send_signal(signal.SIGSTOP)
        time.sleep(4.5)  # longer than any heartbeat: nothing must happen
        client.send_signal(signal.SIGCONT)
        assert client.communicate("\n", timeout=20) == ("6.0\n", "")


def test_a_killed_client_is_gone_also_while_a_child_that_it_forked_lives_on(service: Service) -> None:
    hold = """
import os, time, gt
x = gt.ones(3)
print(x.sum().item())
if os.fork() == 0:
    print(os.getpid())
time.sleep(60)
"""
    client = start(hold, GT_ADDRESS=service.address)
    assert line(client) == "3.0"
    child = int(line(client))
    client.kill()
    watch = start("import gt\nprint(gt.debug.stats().sessions)", GT_ADDRESS=service.address)
    assert line(watch) == "1"
    assert alive(child)
    os.kill(child, signal.SIGKILL)
    client.wait(10)
    watch.wait(10)


def test_a_worker_that_dies_takes_no_dispatcher_along_that_writes_a_log(tmp_path: Path) -> None:
    with serving(GT_INSTRUCTION_LOG=str(tmp_path / "log"), GT_HEARTBEAT_S="30") as service:
        client = start(LOSS, GT_ADDRESS=service.address)
        assert line(client) == "3.0"
        (worker,) = service.workers()
        os.kill(worker, signal.SIGKILL)
        assert line(client).startswith("WorkerLostError")
        assert service.process.poll() is None
        client.wait(10)


def test_a_full_disk_ends_the_log_and_nothing_else(run_python: Run, tmp_path: Path) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"  # limits every file's size
    source = f"{limit}import gt\nx = gt.ones(3)\nfor _ in range(3000):\n    x = x * 1.0\nprint(x.sum().item())"
    done = run_python(source, GT_INSTRUCTION_LOG=str(tmp_path / "log"))
    assert done.stdout == "3.0\n"
    assert done.stderr == f"gt: GT_INSTRUCTION_LOG={tmp_path / 'log'}: File too large; the log ends here\n"


def test_a_log_that_cannot_be_opened_is_an_error_at_the_first_use(run_python: Run) -> None:
    done = run_python("import gt\nprint(gt.ones(3).sum().item())", GT_INSTRUCTION_LOG="/nowhere/log")
    assert "GT_INSTRUCTION_LOG=/nowhere/log: No such file or directory" in done.stderr
    assert done.stdout == ""


def test_a_client_that_asks_a_shared_service_for_a_log_is_told_who_writes_it(service: Service, run_python: Run) -> None:
    source = "import gt\nprint(gt.ones(3).sum().item())"
    done = run_python(source, GT_ADDRESS=service.address, GT_INSTRUCTION_LOG="log.jsonl")
    assert done.stdout == "3.0\n"
    assert f"GT_INSTRUCTION_LOG does nothing here: it is the service at {service.address}" in done.stderr


def test_a_second_service_on_one_address_is_refused_and_the_first_goes_on(either: Service, run_python: Run) -> None:
    why = "another service does" if either.address.startswith("ipc") else "Address already in use"
    second = gt("serve", "--address", either.address)
    assert (second.returncode, second.stderr) == (1, f"gt: {either.address}: cannot listen there: {why}\n")
    done = run_python("import gt\nprint(gt.ones(3).sum().item())", GT_ADDRESS=either.address)
    assert done.stdout == "3.0\n", done.stderr


def test_a_service_says_which_worker_ended(capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as service:
        (worker,) = service.workers()
        os.kill(worker, signal.SIGKILL)
        said = f"gt: worker process {worker} ended with code -9; 0 of this service are left\n"
        eventually(lambda: capfd.readouterr().err == said)


def test_a_client_hears_it_when_the_workers_end_at_their_start() -> None:
    with serving("--device", "cuda:7") as service:
        began = time.monotonic()
        client = start("import gt\nprint(gt.ones(3).sum().item())", GT_ADDRESS=service.address)
        _, said = client.communicate(timeout=60)
        assert "no worker" in said
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("device", ["cuda:7", "nonsense", "meta"])
def test_a_worker_on_a_device_that_cannot_be_used_says_so(device: str, service: Service) -> None:
    done = gt("worker", "--connect", service.address, "--device", device)
    assert done.returncode == 1
    assert done.stderr.startswith(f"gt: device {device}: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_is_no_dispatcher_is_an_error_that_says_so(answer: bytes) -> None:
    with listening(answer) as port:
        address = f"tcp://127.0.0.1:{port}"
        source = f"import gt, time\nt = time.monotonic()\ntry:\n    gt.connect('{address}')\n"
        source += "except Exception as e:\n    print(round(time.monotonic() - t, 1), type(e).__name__, e)"
        took, said = line(start(source, GT_CONNECT_TIMEOUT_S="2")).split(" ", 1)
    assert float(took) < 4
    assert said.startswith(f"ConnectionLostError {address}: something listens there")


def test_who_connects_to_the_other_sides_socket_is_told(service: Service, run_python: Run) -> None:
    done = run_python("import gt\ngt.ones(3).sum().item()", GT_ADDRESS=service.address + ".workers")
    assert "that is where this service's workers connect, and a client did" in done.stderr
    folder = Path(service.address.removeprefix("ipc://")).parent
    (folder / "other.workers").symlink_to(folder / "socket")
    worker = gt("worker", "--connect", f"ipc://{folder}/other")
    (folder / "other.workers").unlink()
    assert "that is where this service's clients connect, and a worker did" in worker.stderr


def test_wrong_options_are_refused_in_a_line() -> None:
    wrong = {
        ("serve", "--address", "tcp://127.0.0.1:70000"): "a port from 1 to 65534",
        ("serve", "--address", "tcp://10.0.0.1:7000"): "only loopback addresses",
        ("serve", "--address", "tcp://127.0.0.1:7000", "--workers", "-1"): "not a number of workers",
        ("worker", "--connect", "tcp://127.0.0.1:7000", "--threads", "two"): "not a number of threads",
        ("serve", "--address", "ipc:///tmp/socket"): "must exist and be private",
        ("log", "/nowhere"): "gt: /nowhere: No such file or directory",
        ("log", "/"): "gt: /: Is a directory",
    }
    for arguments, message in wrong.items():
        done = gt(*arguments)
        assert done.returncode != 0, arguments
        assert message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert "did you mean GT_ADDRESS" in gt("config", GT_ADRESS="tcp://127.0.0.1:1").stderr


def test_a_file_that_is_no_log_is_no_log_also_without_a_last_newline(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for content, code in ((b"", 0), (b'{"time":1.0,"sess', 0), (b"hello", 1), (b"\x00\xff", 1), (b"{}\n", 1)):
        log.write_bytes(content)
        done = gt("log", str(log))
        assert (done.returncode, "not an entry of an instruction log" in done.stderr) == (code, bool(code)), content


def test_a_service_on_two_ctrl_cs_leaves_no_worker() -> None:
    with serving() as service:
        workers = service.workers()
        service.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(10) == 0
        eventually(lambda: not any(map(alive, workers)), 5)


def test_a_service_that_is_ended_before_it_serves_leaves_no_worker_and_no_folder(run_python: Run, tmp_path: Path) -> None:
    code = f"""
        import builtins, signal
        from gt.dispatcher import service
        started, start = [], service.start_workers
        def starting(*arguments):
            started.extend(start(*arguments))
            return started
        def printing(*texts, **options):
            signal.raise_signal(signal.SIGINT)
        service.start_workers, builtins.print, show = starting, printing, print
        service.serve("ipc://{tmp_path}/socket", ["cpu"], [], embedded=False)
        show([worker.process.poll() is None for worker in started])
    """
    done = run_python(textwrap.dedent(code), GT_ROLE="dispatcher", TMPDIR=str(tmp_path))
    assert done.stdout == "[False]\n", done
    assert not list(tmp_path.glob("gt-meet-*"))


def test_the_choice_of_gpus_means_nothing_where_there_is_no_driver(run_python: Run) -> None:
    if Path("/proc/driver/nvidia").is_dir():
        pytest.skip("this machine has a GPU")
    done = run_python("import gt\nprint(gt.debug.where(gt.ones(3)).workers[0].device)", CUDA_VISIBLE_DEVICES="0")
    assert done.stdout == "cpu\n", done.stderr


def test_an_embedded_service_finds_a_place_for_its_socket_where_the_temporary_folder_has_a_long_name(
    tmp_path: Path, run_python: Run
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    done = run_python("import gt\nprint(gt.ones(3).sum().item())", TMPDIR=str(long))
    assert (done.stdout, done.stderr) == ("3.0\n", "")
    assert list(long.iterdir()) == []


MOMENTS_S = [0.0, 0.3, *(pytest.param(after_s, marks=pytest.mark.long) for after_s in (0.03, 0.1, 1.0))]


@pytest.mark.parametrize("after_s", MOMENTS_S)
def test_a_client_that_is_killed_while_its_service_starts_leaves_nothing(after_s: float, tmp_path: Path) -> None:
    client = start("import gt, time\ngt.ones(3).sum().item()\ntime.sleep(60)", TMPDIR=str(tmp_path))
    eventually(lambda: bool(embedded(tmp_path)), 30)
    time.sleep(after_s)
    client.kill()
    client.wait()
    eventually(lambda: embedded(tmp_path) + embedded(tmp_path, "worker") + [*tmp_path.iterdir()] == [], 5)
