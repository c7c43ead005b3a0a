"""The worker's only I/O: takes instructions from the dispatcher, sends answers back."""

from __future__ import annotations

import gc

import torch

from gt.config import settings
from gt.errors import ConfigError, ConnectionLostError, GTError
from gt.wire import codec, messages
from gt.wire.transport import Transport, connect
from gt.worker.execute import Worker


def main(address: str, device: str | None, name: str | None, data_dirs: list[str] | None) -> None:
    """Work for the service at `address` until it stops. `data_dirs` None: any file that this user may touch.

    Raises ConfigError for a device that cannot be used.
    """
    values = settings()
    if values.worker_threads:
        torch.set_num_threads(values.worker_threads)
    worker = _worker(device or ("cuda" if torch.cuda.is_available() else "cpu"), name, data_dirs)
    gc.freeze()
    gc.set_threshold(100_000)  # tensors and views die by their count; few objects here are ever in a cycle
    transport = connect(address, "worker", values.connect_timeout_s)
    try:
        _register(transport, worker, address)
        serve(transport, worker)
    except KeyboardInterrupt:
        pass
    finally:
        transport.close()


def _worker(device: str, name: str | None, data_dirs: list[str] | None) -> Worker:
    try:
        torch.zeros(1, device=device).add_(1).item()
        return Worker(device, None if data_dirs is None else tuple(data_dirs), name)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"device {device}: {str(error).splitlines()[0]}") from None


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
