"""The worker's connection to the dispatcher: takes instructions from it and sends answers back."""

from __future__ import annotations

import gc
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from gt.config import settings
from gt.errors import ConfigError, ConnectionLostError, GTError
from gt.placement.mesh import Mesh
from gt.wire import codec, messages
from gt.wire.shared import Frame, inline
from gt.wire.text import printable
from gt.wire.transport import Transport, connect
from gt.worker import malloc
from gt.worker.execute import Worker
from gt.worker.group import TorchGroup

LOOK_S = 0.1
"""Seconds between two looks for the ends of sessions while instructions run."""


def main(address: str, device: str | None, name: str | None, data_dirs: list[str] | None, threads: int) -> None:
    """Work for the service at `address` until it stops.

    `device`, `name` None: a GPU if there is one, the host and process. `data_dirs` None: any file that this user may touch.
    `threads` 0: PyTorch's own choice.
    Raises ConfigError for a device that cannot be used, ConnectionLostError where the service does not answer, and GTError
    where it rejects the worker.
    """
    values = settings()
    if threads:
        torch.set_num_threads(threads)
    worker = _worker(device or ("cuda" if torch.cuda.is_available() else "cpu"), name, data_dirs)
    gc.freeze()
    malloc.keep_freed()
    gc.set_threshold(100_000)  # tensors and views are freed by reference count; few objects here are ever in a cycle
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
    answer = codec.to_worker(inline(received[0]))
    if isinstance(answer, messages.Rejected):
        raise GTError(f"{address}: {printable(answer.reason)}")


class Inbox:
    """The messages that have arrived, in order. The end of a session is noticed before its turn."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._arrived: deque[tuple[messages.ToWorker, list[Frame]]] = deque()
        self._ended: Counter[int] = Counter()
        """The ends that have not had their turn. A session that was lost may begin and end again meanwhile."""
        self._look_at = 0.0

    def next(self, is_saving: Callable[[], bool]) -> tuple[messages.ToWorker, list[Frame]] | None:
        """The next message and its frames; waits for it, and gives freed memory back while the worker is idle.

        None after `LOOK_S` seconds without one, while the worker `is_saving` files in the background.
        """
        if not self._arrived and is_saving():
            self._take(LOOK_S)
            if not self._arrived:
                return None
        if not self._arrived and not self._take(malloc.IDLE_S):
            malloc.give_back()
        while not self._arrived:
            self._take(None)
        message, frames = self._arrived.popleft()
        if isinstance(message, messages.EndSession):
            self._ended[message.session] -= 1
            self._ended += Counter()  # drop those that are 0
        return message, frames

    def has_ended(self, session: int) -> bool:
        """Whether the end of a session has arrived. Looks at most every `LOOK_S` seconds."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            while self._take(0.0):
                pass
        return session in self._ended

    def _take(self, timeout_s: float | None) -> bool:
        received = self._transport.receive(timeout_s)
        if received is None:
            return False
        message: messages.ToWorker = codec.to_worker(inline(received[0]))
        if isinstance(message, messages.EndSession):
            self._ended[message.session] += 1
        self._arrived.append((message, received[1:]))
        return True


def serve(transport: Transport, worker: Worker) -> None:
    """Execute what arrives until the dispatcher says stop.

    Raises ConnectionLostError where the dispatcher is gone, GTError where it rejects this worker.
    """
    inbox = Inbox(transport)
    while _serve_one(transport, worker, inbox):
        pass


def _serve_one(transport: Transport, worker: Worker, inbox: Inbox) -> bool:
    """Serve at most one message; False where it says stop. As a function of its own it keeps nothing of it while waiting.

    Raises GTError where the dispatcher rejects this worker.
    """
    for late in worker.late():
        transport.send([codec.encode(late)])
    if (arrived := inbox.next(worker.is_saving)) is None:
        return True
    message, frames = arrived
    if isinstance(message, messages.Execute):
        done, data = _run(worker, message, frames, inbox)
        transport.send([codec.encode(done), *data])
    elif isinstance(message, messages.Join):
        mesh = Mesh(tuple(map(str, range(len(message.sizes)))), message.sizes)
        worker.join(message.session, TorchGroup(message.rank, mesh, message.meeting, worker.host.device))
    elif isinstance(message, messages.EndSession):
        worker.end_session(message.session)
        malloc.give_back()
    elif isinstance(message, messages.Rejected):
        raise GTError(f"the dispatcher sent this worker away: {printable(message.reason)}")
    return not isinstance(message, messages.Stop)


def _run(worker: Worker, message: messages.Execute, frames: list[Frame], inbox: Inbox) -> tuple[messages.Done, list[Any]]:
    """Execute a message. While it waits for peers it keeps looking whether the session still exists."""
    work = worker.take(message, frames, inbox.has_ended)
    while True:
        try:
            collective = next(work)
        except StopIteration as stopped:
            return stopped.value  # type: ignore[no-any-return]
        with suppress(RuntimeError):  # raised again where the result is wanted
            while not collective.wait(LOOK_S) and not inbox.has_ended(message.session):
                pass
