"""A service on whose workers nothing is computed: the real dispatcher and planner, over a private socket, and sizes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gt.dispatcher import events, service
from gt.dispatcher.core import Dispatcher
from gt.dispatcher.server import Server
from gt.errors import ConfigError
from gt.placement.layout import Sharding
from gt.planning.report import Report
from gt.tools.shapes import ShapeWorker, info
from gt.wire import messages

BATCH = 4096
"""Instructions in a slice. Nobody takes turns here."""
CREDIT = 64
HEARTBEAT_S = 1.0


class Rehearsal(Server):
    """A server whose workers are in this process. `reports`: one for each sharded session, in order."""

    def __init__(self, address: str, sharding: Sharding) -> None:
        super().__init__(address, Dispatcher(BATCH, CREDIT), None, HEARTBEAT_S)
        self.reports: list[Report] = []
        self._worker = ShapeWorker(self._refuse)
        device = "cuda" if service.visible_gpus() else "cpu"
        for name in _names(sharding):
            register = messages.Register(messages.PROTOCOL, info(name, device))
            self.act(events.FromWorkerEvent(name.encode(), register, []))

    def _refuse(self, op: str) -> None:
        if self.reports:
            self.reports[-1].refused = op

    def carry_out(self, action: events.Action) -> events.Event | None:
        """As `Server.carry_out`; what workers are told is done here and now."""
        if not isinstance(action, events.TellWorker):
            return super().carry_out(action)
        match action.message:
            case messages.Join(session, rank):
                if rank == 0:
                    self._listen(session)
            case messages.Execute() as execute:
                return events.FromWorkerEvent(action.peer, *self._execute(action.peer, execute))
        return None

    def _listen(self, number: int) -> None:
        session = self.dispatcher.state.sessions[number]
        if session.planner is not None:
            self.reports.append(Report(session.planner))
            session.planner.observer = self.reports[-1].observe

    def _execute(self, peer: events.Peer, execute: messages.Execute) -> tuple[messages.Done, events.Frames]:
        """Only the first worker of a session speaks, as among real ones."""
        session = self.dispatcher.state.sessions.get(execute.session)
        workers = session.workers if session is not None else (peer,)
        if workers and peer != workers[0]:
            return messages.Done(execute.session, execute.seq), []
        done, frames = self._worker.take(execute, len(workers))
        return done, [memoryview(frame) for frame in frames]


def _names(sharding: Sharding) -> Sequence[str]:
    """As many workers as the mesh needs, and those that are listed. Raises ConfigError for a list of both kinds."""
    names = [one for one in sharding.workers if isinstance(one, str)]
    numbers = [one for one in sharding.workers if isinstance(one, int)]
    if names and numbers:
        raise ConfigError(f"{sharding.source}: workers: `gt explain` knows names only if all are listed by name")
    return names or [f"worker{i:05}" for i in range(max([sharding.workers_needed - 1, *numbers]) + 1)]


@contextmanager
def rehearsing(sharding: Sharding) -> Iterator[tuple[Rehearsal, str]]:
    """A service for one program, and its address."""
    with tempfile.TemporaryDirectory(prefix="gt-") as folder:
        address = f"ipc://{folder}/socket"
        server = Rehearsal(address, sharding)
        try:
            yield server, address
        finally:
            server.close()
