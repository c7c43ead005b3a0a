"""The handlers of all instructions but operations: tensors in and out, files, the generator, statistics. One row each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from gt.errors import PeerError, ProtocolError
from gt.wire import instructions as wire
from gt.wire.messages import Answer, Failure, WorkerStats
from gt.wire.shared import Frame, inline
from gt.worker import files
from gt.worker.collectives import own_part, put
from gt.worker.failures import failure_of
from gt.worker.geometry import check_geometry, dtype_of
from gt.worker.host import Host
from gt.worker.machine import free_bytes, peak_resident_bytes, total_bytes
from gt.worker.memory import PoisonedError
from gt.worker.query import query
from gt.worker.saving import FileUnderWay
from gt.worker.session import Reply, WorkerSession
from gt.worker.tensor_bytes import bytes_of, tensor_from

Handler = Callable[[Host, WorkerSession, Any, Sequence[Frame]], Reply | None]
"""Executes one instruction of a session; `frames` are those of its message. Returns the answer to a request."""


SCALAR = wire.Geometry((), (), 0, "int64")


def _upload(host: Host, session: WorkerSession, item: wire.Upload, frames: Sequence[Frame]) -> None:
    try:
        check_geometry(item.geometry)
        source = tensor_from(frames[item.frame], item.geometry.size, dtype_of(item.geometry.dtype))
        if item.id in session.memory.storages:
            session.memory.tensor(item.id, item.geometry).copy_(source)
            return
        own = session.memory.allocate(item.geometry)
        own.copy_(source)
        session.memory.put(item.id, item.geometry, own)
    except PoisonedError:
        return
    except Exception as error:
        session.fail([item.id], error, "upload", item.site)


def _fetch(host: Host, session: WorkerSession, item: wire.Fetch, frames: Sequence[Frame]) -> Reply:
    try:
        tensor = session.memory.tensor(item.id, item.geometry)
        return Answer(item.request), [bytes_of(tensor)]
    except PoisonedError as error:
        return session.report(item.request, error.failure), []
    except Exception as error:
        return Answer(item.request, failure=failure_of(error, "fetch", 0)), []


def _load_file(host: Host, session: WorkerSession, item: wire.LoadFile, frames: Sequence[Frame]) -> None:
    try:
        if not item.digits:
            tensor = files.load(item.path, item.name, item.geometry, host.device, host.data_dirs)
            session.memory.put(item.id, item.geometry, tensor)
        elif session.group is None:
            raise ProtocolError("a part of a file in a session of one worker")
        else:
            own = partial(own_part, session.group, item.digits)
            put(session.memory, item.id, files.load(item.path, item.name, item.geometry, host.device, host.data_dirs, own))
    except Exception as error:
        session.fail([item.id], error, "load file", item.site)


def _save_file(host: Host, session: WorkerSession, item: wire.SaveFile, frames: Sequence[Frame]) -> Reply:
    geometries = {name: geometry for name, (_, geometry) in item.tensors.items()}

    def writer() -> files.Writer:
        for id, geometry in item.tensors.values():
            session.memory.tensor(id, geometry)  # what is wrong with a tensor is said before what is with the file
        return files.Writer(item.path, geometries, item.metadata, host.data_dirs)

    saving = FileUnderWay(background=item.background)
    saving.begin(writer)
    for name, (id, geometry) in item.tensors.items():
        saving.write(session.memory, name, id, geometry)
    return _saved(session, item.request, saving)


def _saved(session: WorkerSession, request: int, saving: FileUnderWay) -> Reply:
    if saving.background and saving.is_written_here:
        session.background.add(request, saving)
        return Answer(request), []
    failure = saving.finish()
    return (Answer(request) if failure is None else session.report(request, failure)), []


def _begin_file(host: Host, session: WorkerSession, item: wire.BeginFile, frames: Sequence[Frame]) -> None:
    if session.group is None:
        raise ProtocolError("a file of several workers in a session of one worker")
    saving = session.saving[item.file] = FileUnderWay(session.failed_check, item.background)
    if session.group.rank == 0:
        saving.begin(lambda: _writer(host, session, item))


def _writer(host: Host, session: WorkerSession, item: wire.BeginFile) -> files.Writer:
    if session.memory.tensor(item.verdict, SCALAR).item():
        raise PeerError(f"{item.path}: another worker of this session has no right values to write")
    return files.Writer(item.path, item.tensors, item.metadata, host.data_dirs)


def _write_tensor(host: Host, session: WorkerSession, item: wire.WriteTensor, frames: Sequence[Frame]) -> None:
    session.saving[item.file].write(session.memory, item.name, item.id, item.geometry)


def _end_file(host: Host, session: WorkerSession, item: wire.EndFile, frames: Sequence[Frame]) -> Reply:
    return _saved(session, item.request, session.saving.pop(item.file))


def _seed(host: Host, session: WorkerSession, item: wire.Seed, frames: Sequence[Frame]) -> None:
    host.runner.random.seed(session.number, item.seed)
    session.missed_draw = None


def _get_random_state(host: Host, session: WorkerSession, item: wire.GetRandomState, frames: Sequence[Frame]) -> Reply:
    return Answer(item.request), [memoryview(host.runner.random.state(session.number).numpy().tobytes())]


def _set_random_state(host: Host, session: WorkerSession, item: wire.SetRandomState, frames: Sequence[Frame]) -> None:
    try:
        state = torch.frombuffer(bytearray(inline(frames[item.frame])), dtype=torch.uint8)
        host.runner.random.set_state(session.number, state)
        session.missed_draw = None
    except (IndexError, ProtocolError, RuntimeError, TypeError, ValueError) as error:
        failure = failure_of(error, "set_rng_state", 0)
        session.note(failure)
        session.miss_draw(failure)


def _synchronize(host: Host, session: WorkerSession, item: wire.Synchronize, frames: Sequence[Frame]) -> Reply:
    failure: Failure | None = None
    if host.device.type == "cuda":
        try:
            torch.cuda.synchronize(host.device)
        except RuntimeError as error:
            failure = failure_of(error, "synchronize", 0)
    return session.report_all(item.request, failure), []


def _stats(host: Host, session: WorkerSession, item: wire.Stats, frames: Sequence[Frame]) -> Reply:
    on_cuda = host.device.type == "cuda"
    stats = WorkerStats(
        storages=len(session.memory.storages),
        tensor_bytes=session.memory.usage.bytes(),
        peak_tensor_bytes=session.memory.usage.peak_bytes(item.reset_peak),
        operations=session.operations,
        errors=session.errors,
        definitions=len(session.calls),
        sessions=len(host.sessions),
        zero_fills=host.runner.zeroing.calls,
        threads=torch.get_num_threads(),
        peak_rss_bytes=peak_resident_bytes(),
        device_bytes=torch.cuda.memory_allocated(host.device) if on_cuda else None,
        device_peak_bytes=torch.cuda.max_memory_allocated(host.device) if on_cuda else None,
        free_bytes=free_bytes(host.device),
        total_bytes=total_bytes(host.device),
    )
    return Answer(item.request, stats=[stats]), []


HANDLERS: dict[type, Handler] = {
    wire.Define: lambda host, session, item, frames: session.define(item, host.device),
    wire.Forget: lambda host, session, item, frames: session.forget(item),
    wire.Query: query,
    wire.Upload: _upload,
    wire.Fetch: _fetch,
    wire.Scope: lambda host, session, item, frames: None,
    wire.LoadFile: _load_file,
    wire.SaveFile: _save_file,
    wire.BeginFile: _begin_file,
    wire.WriteTensor: _write_tensor,
    wire.EndFile: _end_file,
    wire.Seed: _seed,
    wire.GetRandomState: _get_random_state,
    wire.SetRandomState: _set_random_state,
    wire.Synchronize: _synchronize,
    wire.Stats: _stats,
}
