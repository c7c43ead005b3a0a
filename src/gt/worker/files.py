"""Tensors between safetensors files and a worker, inside the folders that it may use."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from gt.wire.instructions import Geometry
from gt.worker.memory import dtype_of


def check(path: str, folders: tuple[str, ...] | None) -> Path:
    """The real path. Raises PermissionError outside `folders` (None: anywhere)."""
    real = Path(os.path.realpath(path))
    if folders is not None and not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
        raise PermissionError(f"{path}: not in a folder that this service was given (`gt serve --data DIR`)")
    return real


def load(path: Path, name: str, geometry: Geometry, device: torch.device) -> torch.Tensor:
    """One tensor of a file, mapped into memory and copied from there."""
    with safetensors.safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
        tensor: torch.Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
    if tuple(tensor.shape) != geometry.size or tensor.dtype != dtype_of(geometry.dtype):
        raise RuntimeError(f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}, expected {geometry}")
    return tensor.clone() if device.type == "cpu" else tensor.to(device)


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        plain = {name: t.detach().cpu().resolve_conj().resolve_neg() for name, t in tensors.items()}
        save_file({name: t.contiguous().clone() for name, t in plain.items()}, partial, metadata)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
