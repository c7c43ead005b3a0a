"""A service: a dispatcher in this process and its workers as child processes."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from gt.config import settings
from gt.dispatcher.core import Dispatcher, Expect
from gt.dispatcher.log import InstructionLog
from gt.dispatcher.server import Server
from gt.wire import addresses


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGINT: the service is to end, also where it is not serving yet."""


ENDING = (signal.SIGTERM, signal.SIGINT)


def visible_gpus() -> list[int]:
    """Indices of the GPUs that CUDA would see, found without torch. Where there is no driver, CUDA sees none."""
    driver = Path("/proc/driver/nvidia/gpus")
    present = len(list(driver.iterdir())) if driver.is_dir() else len(list(Path("/dev").glob("nvidia[0-9]*")))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return list(range(present))
    named = itertools.takewhile(lambda c: c not in ("", "-1"), (c.strip() for c in chosen.split(",")))
    return list(range(min(present, len(list(named)))))


def start_workers(address: str, devices: list[str], data_dirs: list[str] | None) -> list[subprocess.Popen[bytes]]:
    """One child process a device; they end with this process."""
    started = []
    for index, device in enumerate(devices):
        command = [sys.executable, "-m", "gt", "worker", "--connect", address, "--device", device]
        command += ["--name", f"worker{index}", "--parent", str(os.getpid())]
        command += ["--data", *data_dirs] if data_dirs is not None else ["--any-file"]
        started.append(subprocess.Popen(command, env={**os.environ, "GT_ROLE": "worker"}, start_new_session=True))
    return started


def serve(address: str, devices: list[str], data_dirs: list[str] | None, parent: int | None, quiet: bool) -> None:
    """Serve until SIGTERM or SIGINT, or until the process `parent` is no longer this one's parent.

    `data_dirs`: folders that workers may read and write; None (embedded): what this user may.
    """
    values = settings()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection a peer, a descriptor a large frame
    log = InstructionLog(values.instruction_log) if values.instruction_log else None
    dispatcher = Dispatcher(values.worker_batch_size, values.credit, len(devices))
    heartbeat_s = min(values.heartbeat_s, PARENT_POLL_S) if parent else values.heartbeat_s
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell starts what it runs in the background
            signal.signal(number, _end)
    server = Server(address, dispatcher, log, heartbeat_s)
    workers = start_workers(address, devices, data_dirs)
    if not quiet:
        print(f"serving {address} with {len(workers)} worker{'s' * (len(workers) != 1)}; Ctrl-C ends it", flush=True)
    try:
        server.run(lambda: _goes_on(parent, workers, server))
    except Ended:
        pass
    finally:
        _ignore_signals()
        server.close()
        _stop(workers)
        if parent is not None and address.startswith(addresses.IPC):
            shutil.rmtree(addresses.path(address).parent, ignore_errors=True)


PARENT_POLL_S = 0.3
STOP_TIMEOUT_S = 3.0


def _goes_on(parent: int | None, workers: list[subprocess.Popen[bytes]], server: Server) -> bool:
    for worker in [w for w in workers if w.poll() is not None]:
        workers.remove(worker)
        ended = f"gt: worker process {worker.pid} ended with code {worker.returncode}"
        print(f"{ended}; {len(workers)} of this service are left", file=sys.stderr, flush=True)
    server.act(Expect(len(workers)))
    return parent is None or (os.getppid() == parent and bool(workers or server.dispatcher.workers))


def _stop(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    for worker in workers:
        try:
            worker.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            worker.kill()


def _end(signum: int, frame: FrameType | None) -> None:
    _ignore_signals()
    raise Ended


def _ignore_signals() -> None:
    """A second Ctrl-C must not keep the workers from being ended."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
