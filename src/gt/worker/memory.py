"""Storages and the tensors that see them.

A session's memory maps a storage id to `{geometry number: tensor}`. All tensors of one such dict share one torch
storage: they are the views that calls have asked for so far, so that an operand is two dict look-ups. A storage whose
value is the result of an error is a `Poison` instead: subscripting it raises, so the fast path never asks.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, TypeAlias

import torch

from gt.errors import ProtocolError
from gt.wire.instructions import Geometry
from gt.wire.messages import Failure
from gt.wire.shared import Frame, share
from gt.worker.zeroing import Zeroing

DTYPES: dict[str, torch.dtype] = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
MAX_BYTES = 1 << 62
"""Beyond this PyTorch's own products of sizes and strides overflow."""
MAX_VIEWS = 64  # of one storage; a growing cache seen through ever new sizes must not keep them all


COUNTED_FROM_BYTES = 1 << 16
"""Results from this size on count towards a session's peak as they are made; counting would cost more than smaller ones."""


class Poison:
    """Stands where a storage would be, had the call that makes or writes it not failed."""

    __slots__ = ("failure",)

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class PoisonedError(Exception):
    """An operand's value depends on a failed call."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


Views: TypeAlias = dict[int, Any]  # torch.Tensor; a Graph where the storage is a handle
Storages: TypeAlias = dict[int, Any]  # Views | Poison


def dtype_of(name: str) -> torch.dtype:
    try:
        return DTYPES[name]
    except KeyError:
        raise ProtocolError(f"unknown dtype {name!r}") from None


def elements(geometry: Geometry) -> int:
    """How many elements a storage needs to hold `geometry`."""
    if 0 in geometry.size:
        return 0
    return geometry.offset + 1 + sum((n - 1) * s for n, s in zip(geometry.size, geometry.stride, strict=True))


def size_bytes(geometry: Geometry) -> int:
    """What a storage for `geometry` holds."""
    return elements(geometry) * dtype_of(geometry.dtype).itemsize


def geometry_of(tensor: torch.Tensor) -> Geometry:
    return Geometry(
        size=tuple(tensor.shape),
        stride=tensor.stride(),
        offset=int(tensor.storage_offset()),
        dtype=str(tensor.dtype).removeprefix("torch."),
        conj=tensor.is_conj(),
        neg=tensor.is_neg(),
    )


def check(geometry: Geometry) -> None:
    """Raises ProtocolError for a geometry that no tensor has."""
    lists = len(geometry.size) == len(geometry.stride) and min((geometry.offset, *geometry.size, *geometry.stride)) >= 0
    dtype = dtype_of(geometry.dtype)
    if not lists or (geometry.conj and not dtype.is_complex):
        raise ProtocolError(f"no tensor lies as {geometry}")
    extent = geometry.offset + 1 + sum(max(n - 1, 0) * s for n, s in zip(geometry.size, geometry.stride, strict=True))
    if max(extent, math.prod(max(n, 1) for n in geometry.size)) * dtype.itemsize > MAX_BYTES:
        raise ProtocolError(f"no memory holds {geometry}")


def beyond(tensor: torch.Tensor, geometry: Geometry) -> bool:
    """Whether the storage of `tensor` has more bytes than `geometry` shows: what lies there, nobody wrote."""
    return tensor.untyped_storage().nbytes() > elements(geometry) * tensor.dtype.itemsize


def _with_bits(tensor: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    if geometry.conj:
        tensor = torch._conj(tensor)
    return torch._neg_view(tensor) if geometry.neg else tensor


_memory_at = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_at.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_memory_at.restype = ctypes.py_object
_TO_READ = 0x100  # PyBUF_READ


def bytes_of(tensor: torch.Tensor) -> Frame:
    """A copy of the elements, row-major."""
    if not (tensor.is_cpu and tensor.is_contiguous()) or tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    return share(_memory_at(tensor.data_ptr(), tensor.nbytes, _TO_READ))


def copy_into(target: torch.Tensor, source: torch.Tensor) -> None:
    """`target.copy_(source)`, also where `target` is expanded (an element written twice is refused by copy_)."""
    for dim, (size, stride) in enumerate(zip(target.shape, target.stride(), strict=True)):
        if stride == 0 and size > 1:
            target, source = target.narrow(dim, 0, 1), source.narrow(dim, 0, 1)
    target.copy_(source)


class Memory:
    """What one session holds. `storages` is read and written directly by prepared calls."""

    def __init__(self, device: torch.device, zeroing: Zeroing) -> None:
        self.device = device
        self.zeroing = zeroing
        self.storages: Storages = {}
        self.geometries: list[Geometry] = []
        self._numbers: dict[Geometry, int] = {}
        self._dtypes: list[torch.dtype] = []
        self._plain: list[bool] = []
        self._peak_bytes = 0
        self._large: dict[int, int] = {}
        """The bytes of each storage that counted, until it is found to be freed."""
        self._large_bytes = 0
        """Their sum."""

    def number(self, geometry: Geometry) -> int:
        """The number of a geometry in this session. Raises ProtocolError where it is none of a tensor's."""
        number = self._numbers.get(geometry)
        if number is None:
            check(geometry)
            number = self._numbers[geometry] = len(self.geometries)
            self.geometries.append(geometry)
            self._dtypes.append(dtype_of(geometry.dtype))
            self._plain.append(not geometry.conj and not geometry.neg)
        return number

    def allocate(self, geometry: Geometry) -> torch.Tensor:
        """A tensor of this geometry in a storage of its own, for its elements to be written."""
        count, dtype = elements(geometry), dtype_of(geometry.dtype)
        whole = torch.empty(count, dtype=dtype, device=self.device)
        if math.prod(geometry.size) < count:  # between elements, or before them
            self.zeroing.bytes(whole, 0)
        return _with_bits(whole.as_strided(geometry.size, geometry.stride, geometry.offset), geometry)

    def check(self, id: int) -> Views:
        """The views of a storage. Raises `PoisonedError`, or RuntimeError where the id is not known."""
        views = self.storages.get(id)
        if views is None:
            raise RuntimeError(f"tensor {id} is not known to this worker: its session was closed or its worker was lost")
        if type(views) is Poison:
            raise PoisonedError(views.failure)
        return views  # type: ignore[no-any-return]

    def operand(self, id: int, number: int) -> Any:
        """The tensor that a storage shows through geometry `number`, made where it is missing. Raises as `check`."""
        views = self.check(id)
        tensor = views.get(number)
        if tensor is None:
            member = next(iter(views.values()))
            if not isinstance(member, torch.Tensor):
                raise ProtocolError(f"storage {id} is a handle, not a tensor")
            tensor = self._view(member, number)
            if len(views) >= MAX_VIEWS:
                for old in list(views)[1:]:
                    del views[old]
            views[number] = tensor
        return tensor

    def _view(self, member: torch.Tensor, number: int) -> torch.Tensor:
        """Nearly every view is of the same dtype, without bits, and inside the storage: as_strided checks the last."""
        geometry, dtype, plain = self.geometries[number], self._dtypes[number], self._plain[number]
        if plain and member.dtype is dtype and not member.is_conj() and not member.is_neg():
            try:
                return member.as_strided(geometry.size, geometry.stride, geometry.offset)
            except RuntimeError:
                pass  # beyond the storage, which then grows
        return self._reinterpreted(member, geometry)

    def _reinterpreted(self, member: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """The storage of `member` seen through `geometry`; a storage that is too small grows, as under `resize_`."""
        dtype = dtype_of(geometry.dtype)
        storage = member.untyped_storage()
        before = storage.nbytes()
        plain = member.dtype == dtype and not member.is_conj() and not member.is_neg()
        # as_strided shares the version counter, so that autograd notices writes to what a Graph saved; set_ does not
        if plain and elements(geometry) * dtype.itemsize <= before:
            seen = member.as_strided(geometry.size, geometry.stride, geometry.offset)
        else:
            seen = torch.empty(0, dtype=dtype, device=member.device)
            seen.set_(storage, geometry.offset, geometry.size, geometry.stride)  # type: ignore[call-overload]
            self.zeroing.bytes(seen, before)
        return _with_bits(seen, geometry)

    def tensor(self, id: int, geometry: Geometry) -> torch.Tensor:
        tensor = self.operand(id, self.number(geometry))
        if not isinstance(tensor, torch.Tensor):
            raise ProtocolError(f"storage {id} is a handle, not a tensor")
        return tensor

    def put(self, id: int, geometry: Geometry, tensor: torch.Tensor) -> None:
        """Make `tensor`, which lies as `geometry` in a storage of its own, the storage `id`."""
        self.storages[id] = {self.number(geometry): tensor}
        self.made(id, tensor.untyped_storage().nbytes())

    def poison(self, ids: list[int], failure: Failure) -> None:
        for id in ids:
            self.storages[id] = Poison(failure)

    # -- how much ----------------------------------------------------------------------------------------------------

    def made(self, id: int, size: int) -> None:
        """Count a storage of `size` bytes. What was freed is looked for where the sum would be a new peak."""
        if size < COUNTED_FROM_BYTES:
            return
        self._large[id] = size
        self._large_bytes += size
        if self._large_bytes > self._peak_bytes:
            self._large = {id: self._large[id] for id in self._large.keys() & self.storages.keys()}
            self._large_bytes = sum(self._large.values())
            self._peak_bytes = max(self._peak_bytes, self._large_bytes)

    def size_bytes(self) -> int:
        members = (next(iter(views.values())) for views in self.storages.values() if type(views) is not Poison)
        return sum(t.untyped_storage().nbytes() for t in members if isinstance(t, torch.Tensor))

    def peak_bytes(self, reset: bool = False) -> int:
        """The most that the session held since its start or a reset: of large storages at any time, of small ones now."""
        now = self.size_bytes()
        peak = max(self._peak_bytes, now)
        self._peak_bytes = now if reset else peak
        return peak
