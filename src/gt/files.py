"""Tensors between files and workers, without a copy of the model in the client.

A worker that sees the file maps it into memory itself; otherwise the client streams it in chunks.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

from gt import regular
from gt.client.session import recording
from gt.client.session.configured import configured
from gt.client.session.process import process
from gt.client.session.savings import Saving
from gt.client.stream import geometry, operands, sites
from gt.safetensors_format import DTYPES, PACKED, SafetensorsFile
from gt.wire import instructions as wire
from gt.wire.messages import WorkerInfo

CHUNK_BYTES = 16 << 20


def load_safetensors(path: str | os.PathLike[str], names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Load the tensors of a safetensors file onto the worker, by name: all of them, or those in `names`.

    They have the shapes and dtypes of the file; nothing passes through this process if the worker sees the file.

    Raises at the call: OSError (nothing is there, or it is not a regular file), safetensors.SafetensorError (not a
    safetensors file, or cut short), KeyError (no such name), TypeError (a dtype that PyTorch does not have).
    """
    path = Path(path).resolve()
    with regular.held(path) as held, safetensors.safe_open(held, framework="pt") as file:  # type: ignore[no-untyped-call]
        wanted = list(file.keys()) if names is None else list(names)
        missing = sorted(set(wanted) - set(file.keys()))
        if missing:
            raise KeyError(f"{path}: no tensor named {missing[0]!r}")
        mapped = _workers_see(path)
        return {name: _load(file, path, name, mapped) for name in wanted}


def save_safetensors(
    tensors: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    background: bool = False,
) -> Saving:
    """Write tensors to a safetensors file, all or nothing: until it is whole and on the disk, what was there stays.

    The worker writes it if it sees the folder; of several workers one writes it. Tensors of this process are sent to it.

    With `background` the call returns at once: the worker copies the tensors as they are now into its own memory, and writes
    the copies while it goes on with what comes next. Ask the result whether it has (`done`, `wait`). The session's end waits
    up to ten minutes for it, or until Ctrl-C, and warns of errors that nobody has asked for. Where the client has to write
    the file, it does so in this call.

    Raises TypeError for a dtype that the format does not have, and OSError for a folder that is not there or a place that is
    no regular file; RuntimeError and PermissionError if the worker cannot write it (with `background` from the result).
    """
    path = Path(path).resolve()
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise TypeError(f"{path}: {name!r} is {tensor.dtype}, a dtype that safetensors files do not have")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    if path.exists():
        regular.check(path.stat().st_mode, path)
    if not _workers_see(path.parent):
        _write(tensors, path, metadata or {})
        return Saving(path)
    remote = {name: t.to("remote") for name, t in tensors.items()}  # those that are there already stay as they are
    found = {name: operands.operand(t) for name, t in remote.items()}
    named = {name: (i, g.to_wire()) for name, (i, g, _) in found.items()}
    given = (str(path), named, dict(metadata or {}))
    if background and not configured.on_shapes:
        return process.session().save(path, lambda number: wire.SaveFile(number, *given, background=True))
    process.session().savings.wait(math.inf, path)  # lest an older file be put in the place of this one
    process.session().ask(lambda number: wire.SaveFile(number, *given))
    return Saving(path)


def _write(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a file in this process, which has one tensor at a time. Raises what the worker would have raised."""
    file = SafetensorsFile(path, {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}, metadata)
    try:
        for name, tensor in tensors.items():
            file.write(name, recording.elements_of(tensor.detach().cpu()))
        file.finish()
    except safetensors.SafetensorError as error:
        raise RuntimeError(str(error)) from None
    finally:
        file.close()


def _load(file: safetensors.safe_open, path: Path, name: str, mapped: bool) -> torch.Tensor:
    view = file.get_slice(name)  # type: ignore[no-untyped-call]
    kind = view.get_dtype()
    if kind not in DTYPES:
        raise TypeError(f"{path}: {name!r} is {kind}, a dtype that PyTorch does not have")
    *outer, last = view.get_shape() or [None]
    size = torch.Size([] if last is None else [*outer, last // PACKED.get(kind, 1)])
    if not mapped:
        streams = size and kind not in PACKED
        return _streamed(view, size) if streams else file.get_tensor(name).to("remote")  # type: ignore[no-untyped-call]
    spec = geometry.intern(size, geometry.contiguous_stride(size), 0, DTYPES[kind])
    made = operands.make(spec)
    recording.record(wire.LoadFile(operands.operand(made)[0], str(path), name, spec.to_wire(), sites.here()))
    return made


def _streamed(view: Any, size: torch.Size) -> torch.Tensor:
    """The tensor, read and sent in chunks of `CHUNK_BYTES` along its first dim."""
    dtype = DTYPES[view.get_dtype()]
    made = torch.empty(size, dtype=dtype, device="remote")
    rows = max(1, CHUNK_BYTES * size[0] // max(1, made.numel() * dtype.itemsize))
    for start in range(0, size[0], rows):
        made[start : start + rows] = view[start : start + rows]
    return made


def _workers_see(path: Path) -> bool:
    """Whether every worker of the session is on this machine and may use the path."""
    here = socket.gethostname()
    return all(w.host == here and _may_use(w, path) for w in process.session().welcome.workers)


def _may_use(worker: WorkerInfo, path: Path) -> bool:
    return worker.data_dirs is None or any(path.is_relative_to(folder) for folder in worker.data_dirs)
