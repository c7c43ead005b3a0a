"""Storages and their views.

A session's memory maps a storage id to `{geometry number: tensor}`. All tensors of one such dict share one torch
storage: they are the views that calls have asked for so far, so that an operand is two dict look-ups. A storage whose
value depends on a failed call is a `Poison` instead, one that a collective is still making an `Awaited`: subscripting them
raises, so the fast path never asks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from gt.errors import ProtocolError
from gt.wire.instructions import Geometry
from gt.wire.messages import Failure, Recoverable
from gt.worker.geometry import check_geometry, dtype_of, storage_elements, with_bits
from gt.worker.usage import MemoryUsage
from gt.worker.zeroing import Zeroing

MAX_VIEWS = 64
"""Views kept of one storage: a growing cache, seen through a new size each time, must not keep them all."""


Views: TypeAlias = dict[int, Any]  # torch.Tensor; a Graph where the storage is a handle
Storages: TypeAlias = dict[int, Any]  # Views | Poison | Awaited


class Cause(NamedTuple):
    """The instruction of a session of several workers that poisoned a storage, by its message and its place in that.

    `has_begun`: it may have written; else it was not run, since an operand was poisoned.
    """

    message: int
    position: int
    has_begun: bool


class Poison:
    """Takes the place of a storage where the call that makes or writes it failed. `before`: what it was, if anything.

    `cause`: None in a session of one worker, and where the other workers may have something else.
    """

    __slots__ = ("before", "cause", "failure")

    def __init__(self, failure: Failure, before: Views | None, cause: Cause | None) -> None:
        self.failure = failure
        self.before = before
        self.cause = cause


class Awaited:
    """Takes the place of a storage that a collective under way makes or replaces."""

    __slots__ = ("collective",)

    def __init__(self, collective: Any) -> None:
        self.collective = collective


class PoisonedError(Exception):
    """An operand's value depends on a failed call."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Memory:
    """The storages of one session. Direct ways read and write `storages` themselves."""

    def __init__(self, device: torch.device, zeroing: Zeroing) -> None:
        self.device = device
        self.zeroing = zeroing
        self.storages: Storages = {}
        self.usage = MemoryUsage(self.storages)
        self._geometries: list[Geometry] = []
        """By number."""
        self._numbers: dict[Geometry, int] = {}
        self._dtypes: list[torch.dtype] = []
        self._plain: list[bool] = []
        """By number: whether the geometry has neither the conj nor the neg bit."""

    def number(self, geometry: Geometry) -> int:
        """The number of a geometry in this session. Raises ProtocolError for a geometry that no tensor can have."""
        number = self._numbers.get(geometry)
        if number is None:
            check_geometry(geometry)
            number = self._numbers[geometry] = len(self._geometries)
            self._geometries.append(geometry)
            self._dtypes.append(dtype_of(geometry.dtype))
            self._plain.append(not geometry.conj and not geometry.neg)
        return number

    def allocate(self, geometry: Geometry) -> torch.Tensor:
        """A tensor of this geometry in a storage of its own; the caller writes its elements."""
        count, dtype = storage_elements(geometry), dtype_of(geometry.dtype)
        whole = torch.empty(count, dtype=dtype, device=self.device)
        if math.prod(geometry.size) < count:  # the caller leaves bytes between elements, or before them
            self.zeroing.fill(whole)
        return with_bits(whole.as_strided(geometry.size, geometry.stride, geometry.offset), geometry)

    def views(self, id: int) -> Views:
        """The views of a storage. Raises `PoisonedError`, and RuntimeError for an unknown id."""
        views = self.storages.get(id)
        if views is None:
            raise RuntimeError(f"tensor {id} is not known to this worker: its session was closed or its worker was lost")
        if type(views) is Poison:
            raise PoisonedError(views.failure)
        if type(views) is Awaited:
            raise RuntimeError(f"tensor {id} was used before its collective had ended: please report this")
        return views  # type: ignore[no-any-return]

    def operand(self, id: int, number: int) -> Any:
        """The view of storage `id` with geometry `number`, made where it is missing; a `Graph` where `id` is a handle.

        Raises as `views`, and ProtocolError where a tensor is wanted of a handle.
        """
        views = self.views(id)
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
        """Nearly every view has the same dtype, no bits, and is inside the storage; as_strided checks the last."""
        geometry, dtype, plain = self._geometries[number], self._dtypes[number], self._plain[number]
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
        if plain and storage_elements(geometry) * dtype.itemsize <= before:
            seen = member.as_strided(geometry.size, geometry.stride, geometry.offset)
        else:
            seen = torch.empty(0, dtype=dtype, device=member.device)
            seen.set_(storage, geometry.offset, geometry.size, geometry.stride)  # type: ignore[call-overload]
            self.zeroing.fill(seen, before)
        return with_bits(seen, geometry)

    def tensor(self, id: int, geometry: Geometry) -> torch.Tensor:
        """The view of storage `id` with `geometry`. Raises as `operand`, and ProtocolError for a handle."""
        tensor = self.operand(id, self.number(geometry))
        if not isinstance(tensor, torch.Tensor):
            raise ProtocolError(f"storage {id} is a handle, not a tensor")
        return tensor

    def put(self, id: int, geometry: Geometry, tensor: torch.Tensor) -> None:
        """Make `tensor`, which has `geometry` and a storage of its own, the storage `id`."""
        self.storages[id] = {self.number(geometry): tensor}
        self.usage.count(id, tensor.untyped_storage().nbytes())

    def poison(self, ids: list[int], failure: Failure, cause: Cause | None = None) -> None:
        """Let storages stand for a failure: whatever uses them fails with it. Those that stand for one already stay so."""
        for id in ids:
            place = self.storages.get(id)
            if type(place) is not Poison:
                self.storages[id] = Poison(failure, place if type(place) is dict else None, cause)

    def lose(self, ids: list[int], failure: Failure) -> None:
        """The same for good: the storages were to be moved among the workers, so that nobody looks for what they were."""
        for id in ids:
            place = self.storages.get(id)
            self.storages[id] = Poison(place.failure if type(place) is Poison else failure, None, None)

    def restore(self, failure: Failure | None = None) -> None:
        """The client has been told of a failure (None: of all): the storages that its call should have written are again
        what the call has left of them, as after an exception that a local program has caught."""
        for id, place in self.storages.items():
            if type(place) is Poison and place.before is not None and (failure is None or place.failure is failure):
                self.storages[id] = place.before

    def recoverable(self, failure: Failure | None) -> list[Recoverable]:
        """In a session of several workers: what `restore` would be about, as it is here, for the workers to be compared."""
        found = []
        for id, place in self.storages.items():
            if type(place) is Poison and (failure is None or place.failure is failure):
                found += _as_left(id, place)
        return found

    def recover(self, ids: Sequence[int]) -> None:
        """All workers have the same: let these be used again, unless they were moved meanwhile."""
        for id in ids:
            place = self.storages.get(id)
            if type(place) is Poison and place.before is not None:
                self.storages[id] = place.before


def _as_left(id: int, place: Poison) -> list[Recoverable]:
    """What has become of a poisoned storage, if that is known."""
    member = next(iter(place.before.values()), None) if place.before else None
    if place.cause is None or not isinstance(member, torch.Tensor):
        return []
    message, position, has_begun = place.cause
    return [Recoverable(id, (message, position), _digest(member) if has_begun else b"")]


def _digest(member: torch.Tensor) -> bytes:
    """A digest of all bytes of a tensor's storage."""
    storage = member.untyped_storage()
    whole = torch.empty(0, dtype=torch.uint8, device=member.device).set_(storage, 0, (storage.nbytes(),), (1,))  # type: ignore[call-overload]
    return hashlib.blake2b(whole.cpu().numpy().data, digest_size=16).digest()
