"""Tensors from and to safetensors files, inside the folders that the worker may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import safetensors
import torch

from gt import regular
from gt.safetensors_format import SafetensorsFile
from gt.wire.instructions import Geometry
from gt.worker.geometry import dtype_of
from gt.worker.tensor_bytes import readable_bytes


def check(real: str, path: str, folders: tuple[str, ...] | None) -> None:
    """Raises PermissionError where the real path of `path` is outside `folders` (None: anywhere)."""
    if folders is not None and not any(Path(real).is_relative_to(os.path.realpath(folder)) for folder in folders):
        raise PermissionError(f"{path}: not in a folder that this service was given (`gt serve --data DIR`)")


def load(
    path: str,
    name: str,
    geometry: Geometry,
    device: torch.device,
    folders: tuple[str, ...] | None,
    own: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """One tensor of a file, mapped into memory and copied to the device. With `own`, what that returns of its elements.

    Raises PermissionError outside `folders`, RuntimeError for another size or dtype, and as `safetensors` does.
    """
    check(os.path.realpath(path), path, folders)
    with regular.held(path) as held:
        check(os.readlink(held), path, folders)  # it may have been replaced since
        with safetensors.safe_open(held, framework="pt") as file:  # type: ignore[no-untyped-call]
            tensor: torch.Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
    if tuple(tensor.shape) != geometry.size or tensor.dtype != dtype_of(geometry.dtype):
        raise RuntimeError(f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}, expected {geometry}")
    if own is not None:
        tensor = own(tensor.view(-1))  # the file's pages that it doesn't touch are not read
    return tensor.clone() if device.type == "cpu" else tensor.to(device)


class Writer:
    """Writes a safetensors file tensor by tensor, completely or not at all: `finish` puts it in its place.

    `tensors`: all that it will hold. Raises PermissionError outside `folders`, OSError where the file cannot be written.
    """

    def __init__(
        self, path: str, tensors: dict[str, Geometry], metadata: dict[str, str], folders: tuple[str, ...] | None
    ) -> None:
        real = Path(os.path.realpath(path))
        check(str(real), path, folders)
        if real.exists():
            regular.check(real.stat().st_mode, path)
        sizes = {name: (g.size, dtype_of(g.dtype)) for name, g in tensors.items()}
        with ExitStack() as opened:
            folder = opened.enter_context(regular.held_folder(real.parent))
            check(os.path.join(os.readlink(folder), real.name), path, folders)  # it may have been replaced since
            self._target = Path(folder, real.name)
            self._file = SafetensorsFile(self._target, sizes, metadata)
            opened.callback(self._file.close)
            self._opened = opened.pop_all()

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write the elements of a strided tensor. Raises as `SafetensorsFile.write`."""
        with readable_bytes(tensor) as own:
            self._file.write(name, own)

    def finish(self) -> None:
        """All tensors are written: put the file in its place. Raises as `write`."""
        self._file.finish()

    def close(self) -> None:
        """Remove what was written of a file that is not finished."""
        self._opened.close()
