"""The worker: executes the instructions of its sessions in order. No I/O but files; nothing here knows a socket.

A call that fails spoils what it would have made and written: those storages stand for the failure from then on, and so
does everything computed from them. What does not depend on it goes on.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch

from gt.errors import ProtocolError
from gt.wire import codec
from gt.wire import instructions as wire
from gt.wire.messages import Answer, Done, Execute, Failure, WorkerInfo
from gt.worker import files, graph
from gt.worker.memory import (
    Memory,
    PoisonedError,
    allocate,
    bytes_of,
    copy_into,
    dtype_of,
    geometry_of,
)
from gt.worker.prepare import DEFAULT_DTYPE, Call, Direct, direct
from gt.worker.random import Random

Reply = tuple[Answer, list[Any]]
NEEDS_CHECKS = (wire.Fetch, wire.Query, wire.SaveFile)
"""Requests that show values: a program that runs locally would not have come so far after a failed check."""
ASK_EVERY = 8
"""Instructions between two looks at whether their session is over: a long queue must not outlive its client."""
MAX_FAILURES = 64
"""Unreported failures that a session keeps: a loop that fails each time and asks for nothing must not fill the memory."""


class Session:
    """What one session has on this worker."""

    def __init__(self, number: int, device: torch.device) -> None:
        self.number = number
        self.memory = Memory(device)
        self.calls: dict[int, Call | Failure] = {}
        self.direct: dict[int, Direct] = {}
        """The calls among them that have a direct way."""
        self.failures: list[Failure] = []
        """Failures that no answer has reported yet."""
        self.failed_check: Failure | None = None
        """Of an operator that makes and writes nothing (an assert): no value depends on it, so the next answer tells."""
        self.operations = 0
        self.errors = 0

    def note(self, failure: Failure) -> None:
        """Count a failure, and keep it for the next `Synchronize`."""
        self.errors += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)


class Worker:
    """Executes for many sessions on one device. `data_dirs`: folders that files may be in (None: anywhere)."""

    def __init__(self, device: str = "cpu", data_dirs: tuple[str, ...] | None = None, name: str | None = None) -> None:
        self.device = torch.device(device)
        self.data_dirs = data_dirs
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self.random = Random(self.device)
        self.sessions: dict[int, Session] = {}
        self._handlers: dict[type, Callable[[Session, Any, Sequence[memoryview]], Reply | None]] = {
            wire.Define: self._define,
            wire.Query: self._query,
            wire.Upload: self._upload,
            wire.Fetch: self._fetch,
            wire.Forget: self._forget,
            wire.Scope: lambda session, item, frames: None,
            wire.LoadFile: self._load_file,
            wire.SaveFile: self._save_file,
            wire.Seed: self._seed,
            wire.GetRandomState: self._get_random_state,
            wire.SetRandomState: self._set_random_state,
            wire.Synchronize: self._synchronize,
            wire.Stats: self._stats,
        }

    def info(self) -> WorkerInfo:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if self.device.type == "cuda":
            memory = torch.cuda.get_device_properties(self.device).total_memory
        folders = None if self.data_dirs is None else [os.path.realpath(d) for d in self.data_dirs]
        return WorkerInfo(
            self.name, os.getpid(), socket.gethostname(), str(self.device), str(torch.__version__), memory, folders
        )

    def end_session(self, number: int) -> None:
        self.sessions.pop(number, None)
        self.random.end_session(number)

    def take(
        self, message: Execute, frames: Sequence[memoryview], ended: Callable[[int], bool] = lambda session: False
    ) -> tuple[Done, list[Any]]:
        """Execute what a message asks for; returns the message that reports it, and its frames.

        `ended` is asked now and then whether the session is over: what is left is then not run.
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
        return Done(message.session, message.seq, answers), data

    def execute(
        self, session: int, items: list[wire.Instruction], frames: Sequence[memoryview], ended: Callable[[int], bool]
    ) -> list[Reply]:
        """Run instructions in order; returns the answers to the requests among them."""
        state = self.sessions.get(session)
        if state is None:
            state = self.sessions[session] = Session(session, self.device)
        replies: list[Reply] = []
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for start in range(0, len(items), ASK_EVERY):
                if ended(session):
                    break
                replies += self._run_items(state, items[start : start + ASK_EVERY], frames)
        self.random.give_back()
        return replies

    def _run_items(self, state: Session, items: list[wire.Instruction], frames: Sequence[memoryview]) -> list[Reply]:
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

    def _handle(self, state: Session, item: Any, frames: Sequence[memoryview]) -> Reply | None:
        if state.failed_check is not None and isinstance(item, NEEDS_CHECKS):
            return self._failed(state, item.request, state.failed_check), []
        try:
            return self._handlers[type(item)](state, item, frames)
        except Exception as error:
            return self._refuse(state, item, error)

    # -- calls -----------------------------------------------------------------------------------------------------------

    def _define(self, session: Session, item: wire.Define, frames: Sequence[memoryview]) -> None:
        session.direct.pop(item.call, None)
        try:
            session.calls[item.call] = Call(item, self.device, session.memory.number)
        except Exception as error:
            session.calls[item.call] = _failure(error, item.op, 0)

    def _op(self, session: Session, item: wire.Op) -> None:
        """One operation, the careful way: whatever is wrong with it becomes a failure that spoils what depends on it."""
        call = session.calls.get(item.call)
        try:
            if not isinstance(call, Call):
                raise PoisonedError(call or _failure(ProtocolError("the call is not defined"), "", 0))
            ins = [session.memory.operand(i, g) for i, g in zip(item.ins, call.ins, strict=True)]
            session.operations += 1
            self._keep(session, call, item, self._run(session, call, ins, item.numbers), ins)
        except PoisonedError as error:
            self._spoil(session, item, call, error.failure)
        except Exception as error:
            name = call.name if isinstance(call, Call) else ""
            failure = _failure(error, name, item.site)
            session.note(failure)
            self._spoil(session, item, call, failure)
            if isinstance(call, Call) and not item.outs and not call.written:
                session.failed_check = session.failed_check or failure

    def _spoil(self, session: Session, item: wire.Op, call: Call | Failure | None, failure: Failure) -> None:
        written = [item.ins[i] for i in call.written if i < len(item.ins)] if isinstance(call, Call) else []
        session.memory.poison([*item.outs, *written], failure)

    def _run(self, session: Session, call: Call, ins: list[Any], numbers: Sequence[Any]) -> Any:
        if call.default_dtype is not DEFAULT_DTYPE:
            return self._run_under_default_dtype(session, call, ins, numbers)
        return self._run_plain(session, call, ins, numbers)

    def _run_under_default_dtype(self, session: Session, call: Call, ins: list[Any], numbers: Sequence[Any]) -> Any:
        """The default dtype is the process's, so it is the session's for this call alone."""
        torch.set_default_dtype(call.default_dtype)
        try:
            return self._run_plain(session, call, ins, numbers)
        finally:
            torch.set_default_dtype(DEFAULT_DTYPE)

    def _run_plain(self, session: Session, call: Call, ins: list[Any], numbers: Sequence[Any]) -> Any:
        if call.draws:
            self.random.borrow(session.number)
        if call.saves_graph:
            return self._run_with_graph(call, ins, numbers)
        if call.positional:
            return call.raw(*ins)
        args, kwargs = call.filler.fill(ins, numbers)
        return call.raw(*args, **kwargs)

    def _run_with_graph(self, call: Call, ins: list[Any], numbers: Sequence[Any]) -> list[Any]:
        leaves = graph.leaves(ins, call.define.graph_of)
        seen = [leaf if leaf is not None else tensor for leaf, tensor in zip(leaves, ins, strict=True)]
        args, kwargs = call.filler.fill(seen, numbers)
        with graph.autograd():
            result = call.op(*args, **kwargs)
            outs = list(result) if isinstance(result, (tuple, list)) else [result]
            return [*(out.detach() for out in outs), graph.Graph(leaves, outs)]

    def _keep(self, session: Session, call: Call, item: wire.Op, result: Any, ins: list[Any]) -> None:
        results = _results(call, result, ins)
        if len(results) != len(item.outs):
            raise RuntimeError(f"{call.name}: the worker made {len(results)} results, the client expects {len(item.outs)}")
        if not call.verified:
            self._verify(session, call, item.call, results, ins)
        for position, tensor in enumerate(results):
            if call.copies[position]:
                own = allocate(call.outs[position], self.device)
                copy_into(own, tensor)
                results[position] = own
        for id, number, tensor in zip(item.outs, call.out_numbers, results, strict=True):
            session.memory.storages[id] = {number: tensor}

    def _verify(self, session: Session, call: Call, number: int, results: list[Any], ins: list[Any]) -> None:
        """Compare a call's first results with what the client expects."""
        call.copies = [_must_copy(r, g, results, ins) for r, g in zip(results, call.outs, strict=True)]
        # one definition serves the graphs of many calls, whose gradients lie as their kernels made them
        call.verified = call.op is not graph.backward
        if (way := direct(call)) is not None:
            session.direct[number] = way

    def _query(self, session: Session, item: wire.Query, frames: Sequence[memoryview]) -> Reply:
        try:
            define = wire.Define(
                0, item.op, item.args, item.kwargs, [g for _, g in item.ins], [], default_dtype=item.default_dtype
            )
            call = Call(define, self.device, session.memory.number)
            ins = [session.memory.operand(i, g) for (i, _), g in zip(item.ins, call.ins, strict=True)]
            result = self._run(session, call, ins, [])
            call.filler.give_back_generators(ins)
            session.operations += 1
            return self._answer_query(session, item, call, result, ins), []
        except PoisonedError as error:
            return self._failed(session, item.request, error.failure), []
        except Exception as error:
            # raised where the user's call stands, so that PyTorch's own text is all there is to say
            return Answer(item.request, failure=_failure(error, "", 0)), []

    def _answer_query(self, session: Session, item: wire.Query, call: Call, result: Any, ins: list[Any]) -> Answer:
        outs: list[wire.Geometry | None] = []
        values: list[Any] = []
        kept: list[torch.Tensor] = []
        written = {id(ins[i]) for i in call.written}

        def mark(value: Any) -> str:
            if isinstance(value, (list, tuple)):
                return "[" + "".join(map(mark, value)) + "]"
            if not isinstance(value, torch.Tensor):
                values.append(wire.Complex(value.real, value.imag) if isinstance(value, complex) else value)
                return "v"
            if id(value) in written:
                outs.append(geometry_of(value))
                return "t"
            if len(kept) == wire.QUERY_RESULTS:
                raise RuntimeError(f"{item.op}: more than {wire.QUERY_RESULTS} results")
            own = self._own(value, [*ins, *kept])
            session.memory.put(item.out + len(kept), geometry_of(own), own)
            outs.append(geometry_of(own))
            kept.append(own)
            return "t"

        pattern = "".join(map(mark, result if isinstance(result, tuple) else (result,)))
        return Answer(item.request, outs=outs, values=values, pattern=pattern)

    def _own(self, tensor: torch.Tensor, others: list[Any]) -> torch.Tensor:
        """A tensor in a storage of its own, from the storage's start."""
        shared = any(isinstance(o, torch.Tensor) and _same_storage(o, tensor) for o in others)
        if not shared and tensor.storage_offset() == 0 and not tensor.is_conj() and not tensor.is_neg():
            return tensor
        return tensor.clone(memory_format=torch.preserve_format).resolve_conj().resolve_neg()

    # -- data ------------------------------------------------------------------------------------------------------------

    def _upload(self, session: Session, item: wire.Upload, frames: Sequence[memoryview]) -> None:
        try:
            data = frames[item.frame]
            dtype = dtype_of(item.geometry.dtype)
            source = torch.empty(item.geometry.size, dtype=dtype)
            if len(data) != source.numel() * dtype.itemsize:
                raise ProtocolError(f"an upload of {len(data)} bytes for {source.numel()} elements of {dtype}")
            if len(data):
                source = torch.frombuffer(bytearray(data), dtype=dtype).reshape(item.geometry.size)
            if item.id in session.memory.storages:
                session.memory.tensor(item.id, item.geometry).copy_(source)
                return
            own = allocate(item.geometry, self.device)
            own.copy_(source)
            session.memory.put(item.id, item.geometry, own)
        except PoisonedError:
            return
        except Exception as error:
            self._fail(session, [item.id], error, "upload", item.site)

    def _fetch(self, session: Session, item: wire.Fetch, frames: Sequence[memoryview]) -> Reply:
        try:
            tensor = session.memory.tensor(item.id, item.geometry)
            return Answer(item.request), [bytes_of(tensor)]
        except PoisonedError as error:
            return self._failed(session, item.request, error.failure), []
        except Exception as error:
            return Answer(item.request, failure=_failure(error, "fetch", 0)), []

    def _forget(self, session: Session, item: wire.Forget, frames: Sequence[memoryview]) -> None:
        for call in item.calls:
            session.calls.pop(call, None)
            session.direct.pop(call, None)

    def _load_file(self, session: Session, item: wire.LoadFile, frames: Sequence[memoryview]) -> None:
        try:
            tensor = files.load(files.check(item.path, self.data_dirs), item.name, item.geometry, self.device)
            session.memory.put(item.id, item.geometry, tensor)
        except Exception as error:
            self._fail(session, [item.id], error, "load file", item.site)

    def _save_file(self, session: Session, item: wire.SaveFile, frames: Sequence[memoryview]) -> Reply:
        try:
            tensors = {name: session.memory.tensor(i, g) for name, (i, g) in item.tensors.items()}
            files.save(files.check(item.path, self.data_dirs), tensors, item.metadata)
            return Answer(item.request), []
        except PoisonedError as error:
            return self._failed(session, item.request, error.failure), []
        except Exception as error:
            return Answer(item.request, failure=_failure(error, "save file", 0)), []

    # -- the session's generator, and what it asks ------------------------------------------------------------------------

    def _seed(self, session: Session, item: wire.Seed, frames: Sequence[memoryview]) -> None:
        self.random.seed(session.number, item.seed)

    def _get_random_state(self, session: Session, item: wire.GetRandomState, frames: Sequence[memoryview]) -> Reply:
        return Answer(item.request), [memoryview(self.random.state(session.number).numpy().tobytes())]

    def _set_random_state(self, session: Session, item: wire.SetRandomState, frames: Sequence[memoryview]) -> None:
        try:
            state = torch.frombuffer(bytearray(frames[item.frame]), dtype=torch.uint8)
            self.random.set_state(session.number, state)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            self._fail(session, [], error, "set_rng_state", 0)

    def _synchronize(self, session: Session, item: wire.Synchronize, frames: Sequence[memoryview]) -> Reply:
        failure = session.failures[0] if session.failures else None
        session.failures.clear()
        session.failed_check = None
        if self.device.type == "cuda":
            try:
                torch.cuda.synchronize(self.device)
            except RuntimeError as error:
                failure = failure or _failure(error, "synchronize", 0)
        return Answer(item.request, failure=failure), []

    def _stats(self, session: Session, item: wire.Stats, frames: Sequence[memoryview]) -> Reply:
        stats: dict[str, int | float | str] = {
            "storages": len(session.memory.storages),
            "bytes": session.memory.size_bytes(),
            "operations": session.operations,
            "errors": session.errors,
            "definitions": len(session.calls),
            "sessions": len(self.sessions),
            "threads": torch.get_num_threads(),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if self.device.type == "cuda":
            stats["device_bytes"] = torch.cuda.memory_allocated(self.device)
            stats["device_peak_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return Answer(item.request, stats=stats), []

    # -- failures --------------------------------------------------------------------------------------------------------

    def _fail(self, session: Session, ids: list[int], error: Exception, op: str, site: int) -> None:
        failure = _failure(error, op, site)
        session.note(failure)
        session.memory.poison(ids, failure)

    def _refuse(self, session: Session, item: Any, error: Exception) -> Reply | None:
        """What an instruction that cannot be executed comes to: a failure of its session's, and of nobody else's."""
        failure = _failure(error, type(item).__name__, 0)
        if isinstance(item, wire.REQUESTS):
            return Answer(item.request, failure=failure), []
        session.note(failure)
        return None

    def _failed(self, session: Session, request: int, failure: Failure) -> Answer:
        """Answer with a failure; it counts as reported."""
        session.failures = [f for f in session.failures if f is not failure]
        if failure is session.failed_check:
            session.failed_check = None
        return Answer(request, failure=failure)


def _failure(error: Exception, op: str, site: int) -> Failure:
    return Failure(type(error).__name__, str(error) or type(error).__name__, op, site)


def _results(call: Call, result: Any, ins: list[Any]) -> list[Any]:
    """The fresh results of a call in order: its written operands and undefined results left out."""
    if not isinstance(result, (list, tuple)):
        return [] if result is None or any(result is ins[i] for i in call.written) else [result]
    found: list[Any] = []
    for value in result:
        if isinstance(value, (list, tuple)):
            found.extend(v for v in value if v is not None)
        elif value is not None and not any(value is ins[i] for i in call.written):
            found.append(value)
    return found


def _must_copy(result: Any, expected: wire.Geometry, results: list[Any], ins: list[Any]) -> bool:
    """Whether a result lies otherwise than the client expects. Raises RuntimeError where it is another tensor."""
    if isinstance(result, graph.Graph):
        return False
    found = geometry_of(result)
    if found.size != expected.size or found.dtype != expected.dtype:
        raise RuntimeError(
            f"the worker made {found.dtype}{list(found.size)} where the client expects"
            f" {expected.dtype}{list(expected.size)}; please report this operator"
        )
    others = [o for o in (*results, *ins) if o is not result and isinstance(o, torch.Tensor)]
    return found != expected or any(_same_storage(o, result) for o in others) or any(result is i for i in ins)


def _same_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata
