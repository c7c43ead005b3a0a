"""Tensors between files and workers, without a copy of the model in the client.

Where a worker sees the file it maps it into memory itself; otherwise the client streams it, tensor by tensor.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import torch

from gt.client import geometry, record, session, sites
from gt.wire import instructions as wire

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""dtype names of the safetensors format (github.com/huggingface/safetensors, `Dtype`)."""


def load_safetensors(path: str | os.PathLike[str], names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, on the worker; all of them, or those in `names`.

    Raises FileNotFoundError, safetensors.SafetensorError (not a safetensors file, or cut short) or KeyError (no such
    name) at the call.
    """
    path = Path(path).resolve()
    with safetensors.safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
        wanted = list(file.keys()) if names is None else list(names)
        missing = sorted(set(wanted) - set(file.keys()))
        if missing:
            raise KeyError(f"{path}: no tensor named {missing[0]!r}")
        mapped = _worker_sees(path)
        return {name: _load(file, path, name, mapped) for name in wanted}


def save_safetensors(
    tensors: Mapping[str, torch.Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write remote tensors to a safetensors file: all of it or nothing. The worker writes where it sees the folder."""
    path = Path(path).resolve()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    if _worker_sees(path.parent):
        operands = {name: record.operand(t) for name, t in tensors.items()}
        named = {name: (i, g.to_wire()) for name, (i, g, _) in operands.items()}
        session.current().ask(lambda number: wire.SaveFile(number, str(path), named, dict(metadata or {})))
        return
    from safetensors.torch import save_file  # late import: only where the worker cannot write

    partial = path.with_name(path.name + ".partial")
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, partial, dict(metadata or {}))
    partial.replace(path)


def _load(file: safetensors.safe_open, path: Path, name: str, mapped: bool) -> torch.Tensor:
    if not mapped:
        tensor: torch.Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor.to("remote")
    view = file.get_slice(name)  # type: ignore[no-untyped-call]
    size = torch.Size(view.get_shape())
    spec = geometry.intern(size, geometry.contiguous_stride(size), 0, DTYPES[view.get_dtype()])
    made = record.make(spec)
    record.record(wire.LoadFile(record.operand(made)[0], str(path), name, spec.to_wire(), sites.here()))
    return made


def _worker_sees(path: Path) -> bool:
    """The embedded worker runs as this user on this machine; another service reads only what it was given."""
    return session.current().embedded
