"""The worker: executes the instructions of its sessions in order. Its only I/O is files; nothing here knows a socket.

The storages that a failed call would have made or written stand for its failure from then on, and so does everything
computed from them. Everything else goes on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch

from gt.errors import ProtocolError
from gt.wire import codec
from gt.wire import instructions as wire
from gt.wire.messages import Answer, Done, Execute, Failure, WorkerInfo
from gt.wire.shared import Frame
from gt.worker.calls.prepared import PreparedCall
from gt.worker.handlers import HANDLERS
from gt.worker.host import Host
from gt.worker.memory import PoisonedError
from gt.worker.session import Reply, WorkerSession, failure_of

NEEDS_CHECKS = (wire.Fetch, wire.Query, wire.SaveFile)
"""Requests that show values: a program that runs locally would have stopped at a failed check before it came to one."""
ASK_EVERY = 8
"""Instructions between two questions whether their session has ended: a long queue must not outlive its client."""


class Worker:
    """Executes for many sessions on one device. `data_dirs`: the folders that files may be in (None: anywhere)."""

    def __init__(self, device: str = "cpu", data_dirs: tuple[str, ...] | None = None, name: str | None = None) -> None:
        self.host = Host(device, data_dirs)
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._has_served = False
        """It has had a session."""

    def info(self) -> WorkerInfo:
        """How the worker introduces itself to the dispatcher; memory in bytes."""
        device, data_dirs = self.host.device, self.host.data_dirs
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if device.type == "cuda":
            memory = torch.cuda.get_device_properties(device).total_memory
        folders = None if data_dirs is None else [os.path.realpath(d) for d in data_dirs]
        return WorkerInfo(self.name, os.getpid(), socket.gethostname(), str(device), str(torch.__version__), memory, folders)

    def end_session(self, number: int) -> None:
        """Drop everything that a session has here."""
        self.host.sessions.pop(number, None)
        self.host.runner.random.end_session(number)

    def take(
        self, message: Execute, frames: Sequence[Frame], ended: Callable[[int], bool] = lambda session: False
    ) -> tuple[Done, list[Any]]:
        """Execute the instructions of a message; returns the message that answers it, and its frames.

        `ended(session)` is asked now and then; where it says that the session has ended, the rest is not run.
        """
        try:
            items = codec.unpack(message.items)
        except ProtocolError:
            return Done(message.session, message.seq, malformed=True), []
        answers: list[Answer] = []
        data: list[Any] = []
        for answer, own in self.execute(message.session, items, frames, ended):
            answers.append(msgspec.structs.replace(answer, frame=len(data)) if own else answer)
            data += own
        state = self.host.sessions[message.session]
        said, state.warnings = state.warnings, []
        return Done(message.session, message.seq, answers, warnings=said), data

    def execute(
        self, session: int, items: list[wire.Instruction], frames: Sequence[Frame], ended: Callable[[int], bool]
    ) -> list[Reply]:
        """Run instructions in order; returns the answers to the requests among them."""
        runner, sessions = self.host.runner, self.host.sessions
        state = sessions.get(session)
        if state is None:
            runner.zeroing.needed = self._has_served
            self._has_served = True
            state = sessions[session] = WorkerSession(session, self.host.device, runner.zeroing)
        replies: list[Reply] = []
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for start in range(0, len(items), ASK_EVERY):
                if ended(session):
                    break
                replies += self._run_items(state, items[start : start + ASK_EVERY], frames)
        runner.random.give_back()
        return replies

    def _run_items(self, state: WorkerSession, items: list[wire.Instruction], frames: Sequence[Frame]) -> list[Reply]:
        replies: list[Reply] = []
        storages, ways = state.memory.storages, state.direct
        for item in items:
            if type(item) is wire.Op:
                way = ways.get(item.call)
                if way is None:
                    self._op(state, item)
                    continue
                try:
                    way(storages, item)
                    state.operations += 1
                except Exception:
                    self._op(state, item)
            elif type(item) is int:
                storages.pop(item, None)
            elif (reply := self._handle(state, item, frames)) is not None:
                replies.append(reply)
        return replies

    def _handle(self, state: WorkerSession, item: Any, frames: Sequence[Frame]) -> Reply | None:
        if state.failed_check is not None and isinstance(item, NEEDS_CHECKS):
            return state.report(item.request, state.failed_check), []
        try:
            return HANDLERS[type(item)](self.host, state, item, frames)
        except Exception as error:  # an instruction that cannot be executed is a failure of its own session only
            failure = failure_of(error, type(item).__name__, 0)
            if isinstance(item, wire.REQUESTS):
                return Answer(item.request, failure=failure), []
            state.note(failure)
            return None

    def _op(self, session: WorkerSession, item: wire.Op) -> None:
        """One operation, the careful way: whatever is wrong with it becomes a failure, which poisons what depends on it."""
        call = session.calls.get(item.call)
        try:
            if not isinstance(call, PreparedCall):
                raise PoisonedError(call or failure_of(ProtocolError("the call is not defined"), "", 0))
            ins, numbers = call.operands(session.memory, item.args)
            session.operations += 1
            result = self.host.runner.run(session, call, ins, numbers, item.site)
            self.host.runner.keep(session, call, item, result, ins)
        except PoisonedError as error:
            self._poison(session, item, call, error.failure)
            if item.out == () and not isinstance(call, PreparedCall):  # nobody knows what it would have written
                session.note(error.failure)
                session.failed_check = session.failed_check or error.failure
        except Exception as error:
            name = call.name if isinstance(call, PreparedCall) else ""
            failure = failure_of(error, name, item.site)
            session.note(failure)
            self._poison(session, item, call, failure)
            if isinstance(call, PreparedCall) and item.out == () and not call.written:
                session.failed_check = session.failed_check or failure

    def _poison(self, session: WorkerSession, item: wire.Op, call: PreparedCall | Failure | None, failure: Failure) -> None:
        written = [item.args[i] for i in call.written if i < len(item.args)] if isinstance(call, PreparedCall) else []
        session.memory.poison([*item.outs, *(id for id in written if isinstance(id, int))], failure)
