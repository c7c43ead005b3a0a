"""Tensors from and to safetensors files, inside the folders that the worker may use."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from gt import regular
from gt.wire.instructions import Geometry
from gt.worker.geometry import dtype_of


def check(real: str, path: str, folders: tuple[str, ...] | None) -> None:
    """Raises PermissionError where the real path of `path` is outside `folders` (None: anywhere)."""
    if folders is not None and not any(Path(real).is_relative_to(os.path.realpath(folder)) for folder in folders):
        raise PermissionError(f"{path}: not in a folder that this service was given (`gt serve --data DIR`)")


def load(path: str, name: str, geometry: Geometry, device: torch.device, folders: tuple[str, ...] | None) -> torch.Tensor:
    """One tensor of a file, mapped into memory and copied to the device.

    Raises PermissionError outside `folders`, RuntimeError for another size or dtype, and as `safetensors` does.
    """
    check(os.path.realpath(path), path, folders)
    with regular.held(path) as held:
        check(os.readlink(held), path, folders)  # it may have been replaced since
        with safetensors.safe_open(held, framework="pt") as file:  # type: ignore[no-untyped-call]
            tensor: torch.Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
    if tuple(tensor.shape) != geometry.size or tensor.dtype != dtype_of(geometry.dtype):
        raise RuntimeError(f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}, expected {geometry}")
    return tensor.clone() if device.type == "cpu" else tensor.to(device)


def save(path: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str], folders: tuple[str, ...] | None) -> None:
    """Write a file completely or not at all.

    Raises PermissionError outside `folders`, OSError where the file cannot be written.
    """
    real = Path(os.path.realpath(path))
    check(str(real), path, folders)
    if real.exists():
        regular.check(real.stat().st_mode, path)
    with regular.held_folder(real.parent) as folder:
        check(os.path.join(os.readlink(folder), real.name), path, folders)  # it may have been replaced since
        target, partial = Path(folder, real.name), Path(folder, f"{real.name}.{os.getpid()}.partial")
        partial.unlink(missing_ok=True)  # of a worker that was killed
        try:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            plain = {name: t.detach().cpu().resolve_conj().resolve_neg() for name, t in tensors.items()}
            save_file({name: t.contiguous().clone() for name, t in plain.items()}, partial, metadata)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
