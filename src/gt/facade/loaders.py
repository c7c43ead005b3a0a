"""`gt.utils.data.DataLoader`: its batches are on the device."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from typing import Any

import torch
from torch.utils import data
from torch.utils._pytree import tree_map

from gt.facade.stand_ins import StandIn


class Batches:
    """A loader's iterator whose batches are on the device; all else is its own, such as its length."""

    def __init__(self, local: Any) -> None:
        self._local = local

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        return to_remote(next(self._local))

    def __len__(self) -> int:
        return len(self._local)

    def __getattr__(self, name: str) -> Any:
        if name == "_local":  # a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self._local, name)


class DataLoader(data.DataLoader[Any], metaclass=StandIn, stands_for=data.DataLoader):
    """A loader whose batches are on the device, also those from worker processes or NumPy arrays."""

    def __iter__(self) -> Any:
        if not self.num_workers:
            return Batches(super().__iter__())
        own = self.dataset
        self.__dict__["dataset"] = to_local(own)  # worker processes cannot reach the session
        try:
            return Batches(super().__iter__())
        finally:
            self.__dict__["dataset"] = own


def to_local(value: Any) -> Any:
    """A copy of a dataset (or of what it holds) with its remote tensors in this process's memory."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, (list, tuple, dict)):
        return tree_map(to_local, value, is_leaf=lambda v: isinstance(v, (torch.Tensor, data.Dataset)))
    if isinstance(value, data.Dataset):
        found = copy.copy(value)
        found.__dict__.update({name: to_local(held) for name, held in value.__dict__.items()})
        return found
    return value


def to_remote(batch: Any) -> Any:
    """A batch with its CPU tensors moved to the remote device. Containers keep their types, as under `pin_memory`."""
    if isinstance(batch, torch.Tensor):
        return batch.to("remote")
    if isinstance(batch, MutableMapping):
        moved = copy.copy(batch)
        moved.update({k: to_remote(v) for k, v in batch.items()})
        return moved
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(to_remote, batch))
    return type(batch)(map(to_remote, batch)) if isinstance(batch, (list, tuple)) else batch
