"""The worker: executes the instructions of its sessions in order. Its only I/O is files; nothing here knows a socket.

The storages that a failed call would have made or written stand for its failure from then on, and so does everything
computed from them. Everything else goes on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Sequence
from typing import Any

import msgspec
import torch

from gt.errors import ProtocolError
from gt.wire import codec
from gt.wire import instructions as wire
from gt.wire.messages import Answer, Done, Execute, Failure, Late, WorkerInfo
from gt.wire.shared import Frame
from gt.worker import collectives
from gt.worker.calls.direct import Direct
from gt.worker.calls.prepared import PreparedCall
from gt.worker.failures import failure_of
from gt.worker.group import Group
from gt.worker.handlers import HANDLERS
from gt.worker.host import Host
from gt.worker.machine import total_bytes
from gt.worker.memory import PoisonedError
from gt.worker.operators import graph
from gt.worker.session import Reply, WorkerSession
from gt.worker.under_way import TOGETHER, Collective, made

NEEDS_CHECKS = (wire.Fetch, wire.SaveFile)
"""Requests that show values, besides `Query`: a program that runs locally would have stopped at a failed check before."""
ASK_EVERY = 8
"""Instructions between two questions whether their session has ended: a long queue must not outlive its client."""
MOST_SAVED = 32
"""Storages that may be freed with a composite's graph after its backward pass, before it is no longer recognised."""
Ended = Callable[[int], bool]
"""Says whether a session has ended."""
Work = Generator[Collective, None, tuple[Done, list[Any]]]


def complete(work: Work) -> tuple[Done, list[Any]]:
    """The result of work in a session of one worker. Raises RuntimeError for work that has to wait for peers."""
    try:
        next(work)
    except StopIteration as stopped:
        return stopped.value  # type: ignore[no-any-return]
    raise RuntimeError("a collective in a session of one worker")


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
        memory = total_bytes(device)
        folders = None if data_dirs is None else [os.path.realpath(d) for d in data_dirs]
        return WorkerInfo(self.name, os.getpid(), socket.gethostname(), str(device), str(torch.__version__), memory, folders)

    def end_session(self, number: int) -> None:
        """Drop everything that a session has here."""
        state = self.host.sessions.pop(number, None)
        if state is not None:
            state.close()
        self.host.runner.random.end_session(number)

    def is_saving(self) -> bool:
        """Whether files are being written in the background."""
        return any(session.background.is_busy() for session in self.host.sessions.values())

    def late(self) -> list[Late]:
        """The second answers that have become due since the last call."""
        sessions = self.host.sessions.values()
        return [Late(session.number, answer) for session in sessions for answer in session.background.answers()]

    def join(self, number: int, group: Group) -> None:
        """A session of several workers begins, of which this one is `group.rank`."""
        self._session(number).group = group

    def take(self, message: Execute, frames: Sequence[Frame], ended: Ended = lambda session: False) -> Work:
        """Execute the instructions of a message; returns the message that answers it, and its frames.

        A generator: it yields the collectives that have to end before it can go on, and is to be resumed when they have.
        `ended(session)` is asked now and then; where it says that the session has ended, the rest is not run.
        """
        try:
            items = codec.unpack(message.items)
        except ProtocolError:
            return Done(message.session, message.seq, malformed=True), []
        answers: list[Answer] = []
        data: list[Any] = []
        state = self._session(message.session)
        state.taken += 1
        replies = yield from self._execute(state, items, frames, ended)
        speaks = state.group is None or state.group.rank == 0
        for answer, own in replies:
            answers.append(msgspec.structs.replace(answer, frame=len(data)) if own and speaks else answer)
            if speaks:
                data += own
        said, state.warnings = state.warnings, []
        found, state.recoverable = state.recoverable, []
        return Done(message.session, message.seq, answers, warnings=said, recoverable=found), data

    def _session(self, number: int) -> WorkerSession:
        state = self.host.sessions.get(number)
        if state is None:
            zeroing = self.host.runner.zeroing
            zeroing.needed = self._has_served
            self._has_served = True
            state = self.host.sessions[number] = WorkerSession(number, self.host.device, zeroing)
        return state

    def _execute(
        self, state: WorkerSession, items: list[wire.Instruction], frames: Sequence[Frame], ended: Ended
    ) -> Generator[Collective, None, list[Reply]]:
        """Run instructions in order; returns the answers to the requests among them."""
        replies: list[Reply] = []
        needed: list[Collective] = []
        position = 0
        while True:
            with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
                while position < len(items) and not needed and not ended(state.number):
                    until = min(position + ASK_EVERY, len(items))
                    position, needed = self._run_items(state, items, position, until, frames, replies)
            self.host.runner.random.give_back()
            if not needed:
                return replies
            for collective in needed:
                yield collective
                self._finish(state, collective)
            needed = []

    def _finish(self, state: WorkerSession, collective: Collective) -> None:
        freed = state.under_way.remove(collective)
        try:
            if not collective.wait(0.0):
                raise RuntimeError("the session ended while its workers waited for each other")
            with torch.no_grad():
                collective.finish()
        except Exception as error:  # a peer is gone: so is the session, and whoever asks before that is told
            collective.fail(error)
        for id in freed:
            state.memory.storages.pop(id, None)

    def _run_items(
        self,
        state: WorkerSession,
        items: list[wire.Instruction],
        position: int,
        until: int,
        frames: Sequence[Frame],
        replies: list[Reply],
    ) -> tuple[int, list[Collective]]:
        """Run instructions from `position` to `until`, or to one that needs collectives; returns where, and which."""
        storages, ways, under_way = state.memory.storages, state.direct, state.under_way
        state.upcoming.items, state.upcoming.position = items, position
        for at, item in enumerate(items[position:until], position):
            if type(item) is wire.Op:
                way = ways.get(item.call)
                if way is not None:
                    try:
                        way(storages, item)
                        state.operations += 1
                        continue
                    except KeyError:
                        if _with_new_views(state, way, item):
                            continue
                    except Exception:
                        way = None  # the careful way finds out why
                if under_way.begun and (needed := under_way.needed(item)):
                    return at, needed
                self._op(state, item)
            elif type(item) is int:
                storages.pop(item, None)
            elif under_way.begun and (needed := under_way.needed(item)):
                return at, needed
            elif type(item) in collectives.HANDLERS:
                if needed := self._begin(state, item):
                    return at + 1, needed
            elif (reply := self._handle(state, item, frames)) is not None:
                replies.append(reply)
        return until, []

    def _begin(self, state: WorkerSession, item: Any) -> list[Collective]:
        """Begin an instruction of `collectives.HANDLERS`; returns what has to end before the next one."""
        try:
            collective = collectives.begin(self.host, state, item)
        except PoisonedError as error:
            state.memory.lose(made(item), error.failure)
            return []
        except Exception as error:
            state.fail(made(item), error, type(item).__name__, 0)
            if state.group is not None and isinstance(item, TOGETHER):
                state.group.close()  # the peers must not wait for this worker
            return []
        if collective is None:
            return []
        state.under_way.add(collective, item)
        return [] if collective.before else [collective]

    def _handle(self, state: WorkerSession, item: Any, frames: Sequence[Frame]) -> Reply | None:
        if state.failed_check is not None and isinstance(item, NEEDS_CHECKS):
            return state.report(item.request, state.failed_check), []
        try:
            handler = HANDLERS.get(type(item))
            if handler is None:
                raise ProtocolError(f"{type(item).__name__} in a session of one worker")
            return handler(self.host, state, item, frames)
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
            if session.missed_draw is not None and call.define.draws:
                raise PoisonedError(session.missed_draw)
            ins, numbers = call.operands(session.memory, item.args)
            session.operations += 1
            if call.op is graph.backward and item.args[0] in session.upcoming.freed_after(item, MOST_SAVED):
                ins[0].is_kept = False
            result = self.host.runner.run(session, call, ins, numbers, item.site)
            self.host.runner.keep(session, call, item, result, ins)
        except PoisonedError as error:
            self._poison(session, item, call, error.failure, has_begun=False)
            if item.out == () and not isinstance(call, PreparedCall):  # nobody knows what it would have written
                session.note(error.failure)
                session.failed_check = session.failed_check or error.failure
        except Exception as error:
            name = call.name if isinstance(call, PreparedCall) else ""
            failure = failure_of(error, name, item.site)
            session.note(failure)
            self._poison(session, item, call, failure, has_begun=True)
            if isinstance(call, PreparedCall) and item.out == () and not call.written:
                session.failed_check = session.failed_check or failure

    def _poison(
        self,
        session: WorkerSession,
        item: wire.Op,
        call: PreparedCall | Failure | None,
        failure: Failure,
        has_begun: bool,
    ) -> None:
        if isinstance(call, PreparedCall) and call.define.draws:
            session.miss_draw(failure)
        written = [item.args[i] for i in call.written if i < len(item.args)] if isinstance(call, PreparedCall) else []
        ids = [*item.outs, *(id for id in written if isinstance(id, int))]
        session.poison(ids, failure, item, has_begun)


def _with_new_views(state: WorkerSession, way: Direct, item: wire.Op) -> bool:
    """Run an operation the direct way, which has missed a view of an operand; False where that was not all it missed."""
    try:
        state.calls[item.call].operands(state.memory, item.args)  # type: ignore[union-attr]
        way(state.memory.storages, item)
    except Exception:
        return False
    state.operations += 1
    return True
