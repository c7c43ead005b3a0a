"""From a tensor to the operand of an instruction: ids of storages, and the geometry in which a tensor sees one.

A tensor's identity is its storage: a `Holder` rides on the storage object, lives exactly as long as the C++ storage, and
reports its death. The operand (id, geometry) of a tensor is cached on the Python tensor object, with the object's own
`id()`: code that copies a tensor's `__dict__` to another tensor, or swaps two, then finds the cache stale and not wrong.
"""

from __future__ import annotations

import itertools

import msgspec
import torch

from gt.client.stream import geometry
from gt.client.stream.devices import mixed_devices
from gt.client.stream.geometry import TensorSpec
from gt.client.stream.segment import Recorder, recorder
from gt.errors import RefusedError
from gt.wire import instructions as wire

META = torch._C.DispatchKeySet(torch._C.DispatchKey.Meta)
Operand = tuple[int, TensorSpec, int]
new_id = itertools.count(1).__next__
_create = torch._C._acc.create_empty_tensor
restride = torch.ops.aten.as_strided.default._handle.redispatch_boxed
"""Called with `META`: gives a remote tensor other strides over its storage."""


class Holder(msgspec.Struct, gc=False):
    """An attribute of a storage object, which it tells the worker about when it dies."""

    id: int
    spec: TensorSpec

    def __del__(self, recorder: Recorder = recorder) -> None:
        recorder.segment.append(self.id)


torch.Tensor._gt = (0, None, 0)  # type: ignore[attr-defined]
"""The cached operand; the class has an invalid one, since a lookup that raises AttributeError costs a microsecond."""


def operand(tensor: torch.Tensor) -> Operand:
    """A tensor's operand: the cached one, or the one found by its storage, which is then cached.

    Raises RuntimeError for a tensor on another device or one that reaches beyond its storage, and RefusedError for one that
    has no strided storage on a worker.
    """
    cached: Operand = tensor._gt  # type: ignore[attr-defined]
    if cached[2] == id(tensor):
        return cached
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout)
        raise RefusedError(f"a {kind} tensor does not travel to workers here: move it to the CPU, or use a strided one")
    try:
        holder = tensor.untyped_storage()._gt  # type: ignore[attr-defined]
    except AttributeError:
        if tensor.device.type != "remote":
            raise RuntimeError(mixed_devices(tensor)) from None
        raise RefusedError(
            "this remote tensor has no storage on a worker. Under torch.compile: workers decide what to compile, so leave it"
            ' out or take backend="eager" (`import gt as torch` leaves it out); elsewhere it was made by C++ code'
        ) from None
    spec = geometry.of(tensor)
    if spec.size_bytes > holder.spec.size_bytes:  # only `as_strided` can do this; a check there would slow down every view
        raise RuntimeError(
            f"setStorage: sizes {list(spec.size)}, strides {list(spec.stride)}, storage offset {spec.offset}, and itemsize"
            f" {spec.dtype.itemsize} requiring a storage size of {spec.size_bytes} are out of bounds for storage of size"
            f" {holder.spec.size_bytes}"
        )
    found = (holder.id, spec, id(tensor))
    tensor._gt = found  # type: ignore[attr-defined]
    return found


QUERY_IDS = 1 << 40
"""The ids of queries' results start here, `QUERY_RESULTS` reserved for each: only the worker knows how many there are."""


_lost_before = [0, 0]
"""The ids, and the ids of queries' results, from which on storages are of the session that is open or of the next one."""


def lose_all(request: int) -> None:
    """Every tensor made so far is lost with its session or its worker; `request`: a number that no query has yet."""
    _lost_before[:] = new_id(), query_id(request)


def check_kept(number: int) -> None:
    """Raises RuntimeError for a storage that was lost with its session."""
    if number < _lost_before[number >= QUERY_IDS]:
        raise RuntimeError("this tensor is lost: its session was closed, or the worker that held it died; make it anew")


def query_id(request: int) -> int:
    """The id of the first result of a query."""
    return QUERY_IDS + request * wire.QUERY_RESULTS


def free_results(request: int) -> None:
    """Free the results of a query that nobody waits for any more. Instructions run in order, so this follows the query."""
    recorder.segment.extend(range(query_id(request), query_id(request + 1)))


def forget_operand(tensor: torch.Tensor) -> None:
    """Drop the cached operand of a tensor whose geometry or storage was changed in place."""
    tensor.__dict__.pop("_gt", None)


def make(spec: TensorSpec) -> torch.Tensor:
    """A new remote tensor with a storage id of its own. `spec.offset` is 0."""
    tensor = _create(spec.size, spec.dtype)
    number = new_id()
    tensor.untyped_storage()._gt = Holder(number, spec)
    if not spec.contiguous:
        tensor = restride(META, tensor, spec.size, spec.stride, 0)
    tensor._gt = (number, spec, id(tensor))
    return tensor  # type: ignore[no-any-return]


def adopt(number: int, spec: TensorSpec) -> torch.Tensor:
    """A new tensor over the storage `number`, which an instruction has already named."""
    tensor = _create(spec.size, spec.dtype)
    tensor.untyped_storage()._gt = Holder(number, spec)
    if not spec.contiguous:
        tensor = restride(META, tensor, spec.size, spec.stride, spec.offset)
    if spec.conj:
        tensor = tensor.conj()
    if spec.neg:
        tensor = tensor._neg_view()
    return tensor  # type: ignore[no-any-return]


def regeometry(tensor: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """Give a tensor another geometry over its own storage, in place."""
    set_data(tensor, over_storage(grown(tensor.untyped_storage(), spec), spec))
    return tensor


def grown(storage: torch.UntypedStorage, spec: TensorSpec) -> torch.UntypedStorage:
    """The storage, grown to hold `spec`; the worker grows its own when it meets the geometry."""
    if spec.size_bytes > storage._gt.spec.size_bytes:  # type: ignore[attr-defined]
        storage._gt.spec = spec  # type: ignore[attr-defined]
    return storage


_set_storage = torch.ops.aten.set_.source_Storage_storage_offset


def over_storage(storage: torch.UntypedStorage, spec: TensorSpec) -> torch.Tensor:
    """A tensor of geometry `spec` (its offset included) over a remote storage."""
    tensor = _create((), spec.dtype)
    tensor = _set_storage.redispatch(META, tensor, storage, spec.offset, spec.size, spec.stride)
    if spec.conj:
        tensor = tensor.conj()
    return tensor._neg_view() if spec.neg else tensor  # type: ignore[no-any-return]


_data = torch._C.TensorBase.data


def set_data(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """PyTorch's own `tensor.data = value`, with the cached operand dropped."""
    forget_operand(tensor)
    _data.__set__(tensor, value)  # type: ignore[attr-defined]
