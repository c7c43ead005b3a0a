"""The dispatcher's only I/O: frames become events, actions become frames."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import zmq

from gt.dispatcher import core
from gt.dispatcher.log import InstructionLog
from gt.errors import ProtocolError
from gt.wire import codec, messages
from gt.wire.transport import Frame, Router, workers_address


class Server:
    """Two routers, one core. `alive` is asked once a heartbeat whether to go on."""

    def __init__(self, address: str, dispatcher: core.Dispatcher, log: InstructionLog | None, heartbeat_s: float) -> None:
        self.clients = Router(address)
        self.workers = Router(workers_address(address))
        self.dispatcher = dispatcher
        self.log = log
        self.heartbeat_s = heartbeat_s
        self._probed_clients: set[bytes] = set()
        self._probed_workers: set[bytes] = set()

    def run(self, alive: Callable[[], bool]) -> None:
        poller = zmq.Poller()
        poller.register(self.clients.socket, zmq.POLLIN)
        poller.register(self.workers.socket, zmq.POLLIN)
        beat = time.monotonic()
        while True:
            ready = poller.poll(math.ceil(max(0.0, beat - time.monotonic()) * 1000))
            for sock, _ in ready:
                self._take_in(sock)
            if time.monotonic() >= beat:
                if not alive():
                    return
                self._probe()
                beat = time.monotonic() + self.heartbeat_s

    def _take_in(self, sock: zmq.Socket[bytes]) -> None:
        """Handle one message: the two sides take turns, and no flood keeps the heartbeat waiting."""
        if sock is self.workers.socket:
            if (received := self.workers.receive()) is not None:
                self._act(self._worker_event(*received))
        elif (received := self.clients.receive()) is not None:
            self._act(self._client_event(*received))

    def _client_event(self, peer: bytes, frames: list[memoryview]) -> core.Event:
        try:
            message = codec.from_client(frames[0] if frames else b"")
        except ProtocolError:
            return core.Malformed(peer)
        self._probed_clients.add(peer)
        return core.FromClientEvent(peer, message, frames[1:])

    def _worker_event(self, peer: bytes, frames: list[memoryview]) -> core.Event:
        try:
            message = codec.from_worker(frames[0] if frames else b"")
        except ProtocolError:
            return core.Malformed(peer)
        self._probed_workers.add(peer)
        return core.FromWorkerEvent(peer, message, frames[1:])

    def _act(self, event: core.Event) -> None:
        for action in self.dispatcher.step(event):
            frames: list[Frame] = [codec.encode(action.message), *action.frames]
            if isinstance(action, core.TellClient):
                if not self.clients.send(action.peer, frames):
                    self._gone(core.ClientGone(action.peer))
                continue
            if self.log is not None and isinstance(action.message, messages.Execute):
                worker = self.dispatcher.workers[action.peer].info.name
                self.log.write(time.time(), worker, action.message)
            if not self.workers.send(action.peer, frames):
                self._gone(core.WorkerGone(action.peer))

    def _gone(self, event: core.ClientGone | core.WorkerGone) -> None:
        probed = self._probed_clients if isinstance(event, core.ClientGone) else self._probed_workers
        probed.discard(event.peer)
        self._act(event)

    def _probe(self) -> None:
        """Find peers that are gone: sending to one fails."""
        ping = [codec.encode(messages.Ping())]
        for peer in sorted(self._probed_clients):
            if not self.clients.send(peer, ping):
                self._gone(core.ClientGone(peer))
        for peer in sorted(self._probed_workers):
            if not self.workers.send(peer, ping):
                self._gone(core.WorkerGone(peer))
        if self.log is not None:
            self.log.flush()

    def close(self) -> None:
        for peer in self._probed_workers:
            self.workers.send(peer, [codec.encode(messages.Stop())])
        if self.log is not None:
            self.log.close()
        self.clients.close()
        self.workers.close()
