"""Patches of storages: those of remote tensors answer what PyTorch's Python asks: size, address, copy, deepcopy, files.

In C++ they have 0 bytes and a null pointer; the worker has the bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gt.client.patches.patch import for_remote
from gt.client.stream import geometry, operands
from gt.errors import RefusedError

Storage = torch.UntypedStorage
ADDRESS = 1 << 60
"""Addresses of remote storages start here, `SPACING` apart: unique, and never addresses of this process's memory."""
SPACING = 1 << 36


def is_remote(storage: Storage) -> bool:
    """Whether a storage is on the remote device."""
    return storage.device.type == "remote"


def as_bytes(storage: Storage) -> torch.Tensor:
    """A remote storage as a uint8 tensor that shares it."""
    count = storage.nbytes()
    return operands.over_storage(storage, geometry.intern(torch.Size((count,)), (1,), 0, torch.uint8))


def _address(storage: Storage) -> int:
    return ADDRESS + storage._gt.id * SPACING  # type: ignore[attr-defined,no-any-return]


def _remote_deepcopy(storage: Storage, memo: dict[Any, Any]) -> Storage:
    copies = memo.setdefault("torch", {})
    if storage._cdata not in copies:
        copies[storage._cdata] = as_bytes(storage).clone().untyped_storage()
    return copies[storage._cdata]  # type: ignore[no-any-return]


def _set_from_file(storage: Storage, *args: Any) -> Storage:
    """Fill a storage from a file of the older format (which `pickle` uses too)."""
    local = Storage(storage.nbytes())
    local._set_from_file(*args)
    as_bytes(storage).copy_(_local_bytes(local))
    return storage


def _get(storage: Storage, index: Any) -> Any:
    """A byte, or a copy of a slice: storages cannot share memory here."""
    if not isinstance(index, int):
        return to_remote(storage.cpu()[index])
    count = storage.nbytes()
    if not -count <= index < count:
        raise IndexError(f"index {index if index > 0 else index + count} out of range for storage of size {count}")
    return as_bytes(storage)[index].item()


def _set(storage: Storage, index: Any, value: int) -> None:
    as_bytes(storage)[index] = value


def _fill(storage: Storage, value: int) -> Storage:
    as_bytes(storage).fill_(value)
    return storage


def _copy(storage: Storage, source: Storage) -> Storage:
    if storage.nbytes() != source.nbytes():
        raise RuntimeError(f"size does not match, self was {storage.nbytes()} bytes but src was {source.nbytes()} bytes")
    as_bytes(storage).copy_(as_bytes(source) if is_remote(source) else _local_bytes(source))
    return storage


def _resize(storage: Storage, size: int) -> Storage:
    storage._gt.spec = geometry.intern(torch.Size((size,)), (1,), 0, torch.uint8)  # type: ignore[attr-defined]
    return storage


def _refuse_to_share(storage: Storage, *args: Any) -> Any:
    """Another process would silently work on a copy."""
    raise RefusedError(
        "a remote tensor shares no memory with another process: send a copy that is on the CPU (tensor.cpu()), and move it"
        " to the device there"
    )


def _text(storage: Storage) -> str:
    return str(storage.cpu()).replace("device=cpu", f"device={storage.device}")


def _local_bytes(storage: Storage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage)  # type: ignore[call-overload]


def to_remote(storage: Storage) -> Storage:
    """A copy of a CPU storage on the remote device."""
    return _local_bytes(storage).to("remote").untyped_storage()


ANSWERS: dict[str, Callable[..., Any]] = {
    "nbytes": lambda storage: storage._gt.spec.size_bytes,
    "size": lambda storage: storage._gt.spec.size_bytes,
    "__len__": lambda storage: storage._gt.spec.size_bytes,
    "__str__": _text,
    "__repr__": _text,
    "__getitem__": _get,
    "__setitem__": _set,
    "fill_": _fill,
    "resize_": _resize,
    "new": lambda storage: torch.empty(0, dtype=torch.uint8, device=storage.device).untyped_storage(),
    "is_shared": lambda storage: False,
    "share_memory_": _refuse_to_share,
    "_share_fd_cpu_": _refuse_to_share,
    "_share_filename_cpu_": _refuse_to_share,
    "cpu": lambda storage: as_bytes(storage).cpu().untyped_storage(),
    "clone": lambda storage: as_bytes(storage).clone().untyped_storage(),
    "tolist": lambda storage: as_bytes(storage).tolist(),
    "_write_file": lambda storage, *args: as_bytes(storage).cpu().untyped_storage()._write_file(*args),
    "_set_from_file": _set_from_file,
    "data_ptr": _address,
    "__deepcopy__": _remote_deepcopy,
}
"""The answers of `UntypedStorage`'s methods for a remote storage."""


def answering(original: Callable[..., Any]) -> Callable[..., Any]:
    """A method with an answer of its own for a remote storage."""
    return for_remote(lambda _, storage, *args, **kwargs: ANSWERS[original.__name__](storage, *args, **kwargs))(original)


def copying(original: Callable[..., Storage]) -> Callable[..., Storage]:
    """`UntypedStorage.copy_`, between any two devices."""

    @functools.wraps(original)
    def copy_(self: Storage, source: Storage, non_blocking: bool = False) -> Storage:
        if is_remote(self):
            return _copy(self, source)
        return original(self, source.cpu() if is_remote(source) else source, non_blocking)

    return copy_


def new_storage(original: Callable[..., Storage]) -> Callable[..., Storage]:
    """`UntypedStorage(..., device="remote")`."""

    @functools.wraps(original)
    def new(cls: type[Storage], *args: Any, **kwargs: Any) -> Storage:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "remote":
            return torch.empty(args[0] if args else 0, dtype=torch.uint8, device=device).untyped_storage()
        return original(cls, *args, **kwargs)

    return new


@for_remote
def data_ptr(original: Callable[..., int], self: torch.Tensor) -> int:
    """An address by which programs tell tensors apart; 0 for one without elements. Nothing can be read there."""
    offset = int(self.storage_offset()) * self.element_size()
    return _address(self.untyped_storage()) + offset if self.numel() else 0
