"""The worker's only I/O: takes instructions from the dispatcher, sends answers back."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import torch

from gt.config import settings
from gt.errors import ConnectionLostError, GTError
from gt.wire import codec, messages
from gt.wire.transport import Transport, connect, workers_address
from gt.worker.execute import Worker

PARENT_POLL_S = 0.5


def main(address: str, device: str | None, name: str | None, data_dirs: list[str] | None, parent: int | None) -> None:
    """Work for the service at `address` until it stops. `data_dirs` None: any file that this user may touch."""
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    values = settings()
    if values.worker_threads:
        torch.set_num_threads(values.worker_threads)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    worker = Worker(chosen, None if data_dirs is None else tuple(data_dirs), name)
    gc.freeze()
    gc.set_threshold(100_000)  # tensors and views die by their count; few objects here are ever in a cycle
    transport = connect(workers_address(address), "worker", values.connect_timeout_s)
    try:
        _register(transport, worker, address)
        serve(transport, worker)
    except KeyboardInterrupt:
        pass
    finally:
        transport.close()


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, however busy it is."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(0)


def _register(transport: Transport, worker: Worker, address: str) -> None:
    transport.send([codec.encode(messages.Register(messages.PROTOCOL, worker.info()))])
    received = transport.receive(settings().connect_timeout_s)
    if received is None:
        raise ConnectionLostError(f"{address}: the dispatcher did not answer")
    answer = codec.to_worker(received[0])
    if isinstance(answer, messages.Rejected):
        raise GTError(f"{address}: {answer.reason}")


def serve(transport: Transport, worker: Worker) -> None:
    """Execute what comes until the dispatcher says stop, or is gone."""
    while True:
        received = transport.receive(None)
        if received is None:
            continue
        message = codec.to_worker(received[0])
        if isinstance(message, messages.Execute):
            done, frames = worker.take(message, received[1:])
            transport.send([codec.encode(done), *frames])
        elif isinstance(message, messages.EndSession):
            worker.end_session(message.session)
        elif isinstance(message, messages.Stop):
            return
