"""A service: a dispatcher in this process and its workers as child processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from gt import life
from gt.config import settings
from gt.dispatcher.core import Dispatcher
from gt.dispatcher.events import Expect
from gt.dispatcher.log import InstructionLog
from gt.dispatcher.server import Server
from gt.wire import addresses


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGINT arrived: the service has to end, even if it is not serving yet."""


ENDING = (signal.SIGTERM, signal.SIGINT)


def visible_gpus() -> list[int]:
    """Indices of the GPUs that CUDA would see, found without torch. Without a driver there are none."""
    driver = Path("/proc/driver/nvidia/gpus")
    present = len(list(driver.iterdir())) if driver.is_dir() else len(list(Path("/dev").glob("nvidia[0-9]*")))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return list(range(present))
    named = itertools.takewhile(lambda c: c not in ("", "-1"), (c.strip() for c in chosen.split(",")))
    return list(range(min(present, len(list(named)))))


def start_workers(address: str, devices: list[str], data_dirs: list[str] | None) -> list[life.Started]:
    """Start one process per device; they end with this process. Those on CPUs share the cores, unless a setting says how."""
    on_cpus = devices.count("cpu")
    chosen = settings().worker_threads or "OMP_NUM_THREADS" in os.environ
    threads = max(1, len(os.sched_getaffinity(0)) // on_cpus) if on_cpus > 1 and not chosen else 0
    common = ["--connect", address, "--threads", str(threads)]
    common += ["--data", *data_dirs] if data_dirs is not None else ["--any-file"]
    return [
        life.start(["worker", "--device", device, "--name", f"worker{index}", *common], role="worker")
        for index, device in enumerate(devices)
    ]


def serve(address: str, devices: list[str], data_dirs: list[str] | None, embedded: bool) -> None:
    """Serve until SIGTERM or SIGINT; if `embedded`, until the program that started this process ends or no worker is left.

    `data_dirs`: folders that workers may read and write; None (embedded): all that this user may.
    """
    values = settings()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one per connection, one per large frame
    log = InstructionLog(values.instruction_log) if values.instruction_log else None
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # a shell has jobs in the background ignore SIGINT
            signal.signal(number, _end)
    with contextlib.suppress(Ended), contextlib.ExitStack() as ending:  # whenever the first signal comes, all is ended
        own = addresses.path(address).parent if embedded else None  # the program removes it if this process cannot
        meeting = tempfile.mkdtemp(prefix="gt-meet-", dir=own)
        ending.callback(shutil.rmtree, own or meeting, ignore_errors=True)
        dispatcher = Dispatcher(values.worker_batch_size, values.credit, len(devices), meeting)
        server = Server(address, dispatcher, log, values.heartbeat_s)
        workers = start_workers(address, devices, data_dirs)
        ending.callback(_stop, workers)
        ending.callback(server.close)
        ending.callback(_ignore_signals)
        if not embedded:
            print(f"serving {address} with {len(workers)} worker{'s' * (len(workers) != 1)}; Ctrl-C ends it", flush=True)
        server.run(lambda: _goes_on(embedded, workers, server), life.ends)


STOP_TIMEOUT_S = 3.0


def _goes_on(embedded: bool, workers: list[life.Started], server: Server) -> bool:
    for worker in [w for w in workers if w.process.poll() is not None]:
        workers.remove(worker)
        worker.leave()
        ended = f"gt: worker process {worker.process.pid} ended with code {worker.process.returncode}"
        print(f"{ended}; {len(workers)} of this service are left", file=sys.stderr, flush=True)
    server.act(Expect(len(workers)))
    return not embedded or bool(workers or server.dispatcher.stats().workers)


def _stop(workers: list[life.Started]) -> None:
    for worker in workers:
        worker.kill()  # it may be importing or computing, and nothing it holds is needed any more
    for worker in workers:
        worker.stop(STOP_TIMEOUT_S)


def _end(signum: int, frame: FrameType | None) -> None:
    _ignore_signals()
    raise Ended


def _ignore_signals() -> None:
    """A second Ctrl-C must not prevent the workers from being stopped."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
