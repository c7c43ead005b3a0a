"""Functions of `safetensors` that read and write remote tensors, and so `load_file` and `save_pretrained`: workers read and
write, and this process holds no file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import safetensors
import torch

from gt import files
from gt.client.patches.by_device import names_remote
from gt.client.stream import devices
from gt.safetensors_format import DTYPES

OPEN = safetensors.safe_open
FOR_TORCH = ("pt", "torch", "pytorch")


class RemoteFile:
    """`safetensors.safe_open(..., device="remote")`: a file whose tensors go to the workers, which read it if they see it.

    It has the methods of the library's class, and raises its errors.
    """

    def __init__(self, filename: Any, framework: str = "pt", device: Any = "remote", **options: Any) -> None:
        devices.check_index(torch.device(device))
        self._path = filename
        self._file = OPEN(filename, framework=framework, device="cpu", **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor of the file."""
        self._file.get_slice(name)  # raises the library's error for a name that is missing, or a file that was closed
        return self._read([name])[name]

    def get_tensors(self) -> dict[str, torch.Tensor]:
        """All tensors of the file, by name."""
        return self._read(self._file.keys())

    def _read(self, names: list[str]) -> dict[str, torch.Tensor]:
        """Returns when they are read: the program may remove or change the file then."""
        read = files.load_safetensors(self._path, names)
        torch.remote.synchronize()  # type: ignore[attr-defined]
        return read

    def get_slice(self, name: str) -> RemoteSlice:
        """A tensor of the file of which parts can be read."""
        return RemoteSlice(self._file.get_slice(name))

    def __enter__(self) -> RemoteFile:
        self._file.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.__exit__(*exc_info)


class RemoteSlice:
    """A tensor of a file of which this process reads parts and sends them to the worker."""

    def __init__(self, local: Any) -> None:
        self._local = local

    def __getattr__(self, name: str) -> Any:
        return getattr(self._local, name)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._local[index].to("remote")  # type: ignore[no-any-return]


def opens_remotely(filename: Any, framework: Any = None, device: Any = "cpu", **options: Any) -> bool:
    """Whether `safetensors.safe_open(...)` is to make remote tensors."""
    return framework in FOR_TORCH and names_remote(device)


def written_by_workers(original: Callable[..., None]) -> Callable[..., None]:
    """As the original, without a copy of the tensors here. What it refuses, it still refuses by its own error."""

    @functools.wraps(original)
    def save_file(tensors: Any, filename: Any, metadata: Any = None) -> None:
        if _is_for_workers(tensors, metadata) and _is_writable(filename):
            files.save_safetensors(tensors, filename, metadata)
        else:
            original(tensors, filename, metadata)

    return save_file


def _is_for_workers(tensors: Any, metadata: Any) -> bool:
    """Whether all are remote tensors of the kinds that a file holds, none of which shares its memory with another."""
    if not isinstance(tensors, dict) or not all(map(_is_plain, tensors.values())):
        return False
    memory = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    return 0 < len(tensors) == len(memory) and all(isinstance(text, str) for text in (*tensors, *_texts(metadata)))


def _is_plain(tensor: Any) -> bool:
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.device.type == "remote"
        and tensor.layout == torch.strided
        and tensor.dtype in DTYPES.values()
        and tensor.is_contiguous()
        and not (tensor.is_conj() or tensor.is_neg())
    )


def _texts(metadata: Any) -> list[Any]:
    return [text for pair in metadata.items() for text in pair] if isinstance(metadata, Mapping) else [metadata or ""]


def _is_writable(filename: Any) -> bool:
    """Whether it names a file, new or regular, in a folder."""
    if not isinstance(filename, (str, os.PathLike)):
        return False
    folder = os.path.dirname(os.path.abspath(filename))
    return os.path.isdir(folder) and (os.path.isfile(filename) or not os.path.lexists(filename))
