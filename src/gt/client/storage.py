"""Storages of remote tensors answer what PyTorch's Python asks of a storage: size, address, copy, deepcopy, save, load.

In C++ they have 0 bytes and a null pointer; the worker has the bytes.
"""

from __future__ import annotations

from typing import Any

import torch

from gt.client import geometry, record

Storage = torch.UntypedStorage
ADDRESS = 1 << 60
"""Addresses of remote storages start here and are this far apart: unique, and never those of this process's memory."""
SPACING = 1 << 36


def _is_remote(storage: Storage) -> bool:
    return storage.device.type == "remote"


def as_bytes(storage: Storage) -> torch.Tensor:
    """The whole of a remote storage as a uint8 tensor that shares it."""
    count = storage.nbytes()
    return record.over_storage(storage, geometry.intern(torch.Size((count,)), (1,), 0, torch.uint8))


def _address(storage: Storage) -> int:
    return ADDRESS + storage._gt.id * SPACING  # type: ignore[attr-defined,no-any-return]


def _remote_deepcopy(storage: Storage, memo: dict[Any, Any]) -> Storage:
    copies = memo.setdefault("torch", {})
    if storage._cdata not in copies:
        copies[storage._cdata] = as_bytes(storage).clone().untyped_storage()
    return copies[storage._cdata]  # type: ignore[no-any-return]


def _set_from_file(storage: Storage, *args: Any) -> Storage:
    """Fill a storage from a file of the format before zip files (which `pickle` goes by too)."""
    local = Storage(storage.nbytes())
    local._set_from_file(*args)
    as_bytes(storage).copy_(torch.empty(0, dtype=torch.uint8, device="cpu").set_(local))
    return storage


_ANSWERS = {
    "nbytes": lambda storage: storage._gt.spec.size_bytes,
    "size": lambda storage: storage._gt.spec.size_bytes,
    "__len__": lambda storage: storage._gt.spec.size_bytes,
    "cpu": lambda storage: as_bytes(storage).cpu().untyped_storage(),
    "clone": lambda storage: as_bytes(storage).clone().untyped_storage(),
    "tolist": lambda storage: as_bytes(storage).tolist(),
    "_write_file": lambda storage, *args: as_bytes(storage).cpu().untyped_storage()._write_file(*args),
    "_set_from_file": _set_from_file,
    "data_ptr": _address,
    "__deepcopy__": _remote_deepcopy,
}
"""Methods of UntypedStorage that have an answer of their own for a remote storage."""


def _answering(name: str, answer: Any) -> Any:
    original = getattr(Storage, name)

    def method(self: Storage, *args: Any) -> Any:
        return answer(self, *args) if _is_remote(self) else original(self, *args)

    method.__name__ = name
    return method


def _new_storage(cls: type[Storage], *args: Any, **kwargs: Any) -> Storage:
    device = kwargs.get("device")
    if device is not None and torch.device(device).type == "remote":
        return torch.empty(args[0] if args else 0, dtype=torch.uint8, device=device).untyped_storage()
    return _create(cls, *args, **kwargs)


_create = Storage.__new__
_tensor_data_ptr = torch.Tensor.data_ptr


def _data_ptr(self: torch.Tensor) -> int:
    if self.device.type != "remote":
        return _tensor_data_ptr(self)
    offset = int(self.storage_offset()) * self.element_size()
    return _address(self.untyped_storage()) + offset if self.numel() else 0


def _location(storage: Any) -> str | None:
    return "remote:0" if _is_remote(storage) else None


def _restore(storage: Any, location: str) -> Any:
    """Put a storage that was read from a file onto the worker."""
    if not location.startswith("remote"):
        return None
    return torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage).to("remote").untyped_storage()


def install() -> None:
    for name, answer in _ANSWERS.items():
        setattr(Storage, name, _answering(name, answer))
    Storage.__new__ = _new_storage  # type: ignore[method-assign,assignment]
    torch.Tensor.data_ptr = _data_ptr  # type: ignore[assignment]
    torch.serialization.register_package(5, _location, _restore)
