"""The dispatcher's only I/O: frames become events, actions become frames."""

from __future__ import annotations

import math
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import zmq

from gt.dispatcher import events
from gt.dispatcher.core import Dispatcher
from gt.dispatcher.log import InstructionLog
from gt.errors import ProtocolError
from gt.wire import codec, messages
from gt.wire.shared import Frame, inline
from gt.wire.text import printable
from gt.wire.transport import Router, listen


class Server:
    """Two routers around one core, and the instruction log."""

    def __init__(self, address: str, dispatcher: Dispatcher, log: InstructionLog | None, heartbeat_s: float) -> None:
        self.clients = listen(address, "client")
        try:
            self.workers = listen(address, "worker")
        except Exception:
            self.clients.close()
            raise
        self.dispatcher = dispatcher
        self.log = log
        self.heartbeat_s = heartbeat_s

    def run(self, alive: Callable[[], bool], ends: Sequence[int] = ()) -> None:
        """Serve until `alive`, asked once a heartbeat, says no, or until one of the descriptors `ends` can be read from."""
        poller = select.poll() if isinstance(self.clients.poll, int) else zmq.Poller()
        poller.register(self.clients.poll, zmq.POLLIN)
        poller.register(self.workers.poll, zmq.POLLIN)
        for end in ends:
            poller.register(end, zmq.POLLIN)
        beat = time.monotonic()
        while True:
            ready = poller.poll(math.ceil(max(0.0, beat - time.monotonic()) * 1000))
            if any(handle in ends for handle, _ in ready):
                return
            for handle, _ in ready:
                self._take_in(handle)
            if time.monotonic() >= beat:
                if not alive():
                    return
                self._probe()
                beat = time.monotonic() + self.heartbeat_s

    def _take_in(self, handle: zmq.Socket[bytes] | int) -> None:
        """Handle some messages of one side; the two take turns, and no flood delays the heartbeat."""
        if handle == self.workers.poll:
            for peer, frames in self.workers.take():
                self.act(events.WorkerGone(peer) if frames is None else self._worker_event(peer, frames))
        else:
            for peer, frames in self.clients.take():
                self.act(events.ClientGone(peer) if frames is None else self._client_event(peer, frames))

    def _client_event(self, peer: bytes, frames: list[Frame]) -> events.Event:
        try:
            message = codec.from_client(inline(frames[0] if frames else b""))
        except ProtocolError:
            return events.Malformed(peer)
        return events.FromClientEvent(peer, message, frames[1:])

    def _worker_event(self, peer: bytes, frames: list[Frame]) -> events.Event:
        try:
            message = codec.from_worker(inline(frames[0] if frames else b""))
        except ProtocolError:
            return events.Malformed(peer)
        return events.FromWorkerEvent(peer, message, frames[1:])

    def act(self, event: events.Event) -> None:
        """Let the core decide and do what it says, then what follows from that: peers turn out to be gone, or have to go."""
        waiting: deque[events.Event] = deque([event])
        while waiting:
            event = waiting.popleft()
            try:
                actions = self.dispatcher.step(event)
            except Exception as error:
                waiting.extendleft(self._blame(event, error))
                continue
            waiting += [gone for action in actions if (gone := self.carry_out(action)) is not None]
            if isinstance(event, events.Failed):
                self._router(event.cause).drop(event.cause.peer)

    def _blame(self, event: events.Event, error: Exception) -> list[events.Event]:
        """A bug in the dispatcher costs the peer that met it its connection, and nobody else."""
        _say(f"a bug, on {type(getattr(event, 'message', event)).__name__}: {_in_short(error)}")
        if isinstance(event, events.Failed):
            self._router(event.cause).drop(event.cause.peer)
        if isinstance(event, events.Expect | events.Malformed | events.Failed):
            return []
        return [events.Failed(event, f"the dispatcher failed on what this peer sent: {_in_short(error)}")]

    def _router(self, what: events.Event | events.Action) -> Router:
        of_clients = isinstance(what, (events.FromClientEvent, events.ClientGone, events.TellClient))
        return self.clients if of_clients else self.workers

    def carry_out(self, action: events.Action) -> events.Event | None:
        """Log it and send it. Returns an event that follows from it: its receiver is gone, or cannot be sent to."""
        if self.log is not None:
            self._note(self.log, action)
        if isinstance(action, events.SessionEnded):
            return None
        router = self._router(action)
        try:
            if router.send(action.peer, [codec.encode(action.message), *action.frames]):
                return None
        except Exception as error:
            _say(f"a peer is left out: {_in_short(error)}")
            router.drop(action.peer)
        return events.ClientGone(action.peer) if isinstance(action, events.TellClient) else events.WorkerGone(action.peer)

    def _note(self, log: InstructionLog, action: events.Action) -> None:
        """Write down what a worker is told to execute."""
        try:
            match action:
                case events.TellWorker(_, worker, messages.Execute() as execute):
                    log.write(time.time(), worker, execute)
                case events.SessionEnded(session):
                    log.forget(session)
        except Exception as error:
            _say(f"a bug, in the instruction log, which lacks something now: {_in_short(error)}")

    def _probe(self) -> None:
        for peer in self.clients.probe():
            self.act(events.ClientGone(peer))
        for peer in self.workers.probe():
            self.act(events.WorkerGone(peer))
        if self.log is not None:
            self.log.flush()

    def close(self) -> None:
        """Tell the workers to stop, and close log and routers."""
        for peer in self.dispatcher.state.workers:
            self.workers.send(peer, [codec.encode(messages.Stop())])
        if self.log is not None:
            self.log.close()
        self.clients.close()
        self.workers.close()


def _in_short(error: Exception) -> str:
    """One line without control characters."""
    return printable(f"{type(error).__name__}: {error}")[:300]


def _say(what: str) -> None:
    with suppress(OSError):  # nobody reads standard error any more
        print(f"gt: {what}", file=sys.stderr, flush=True)
