"""Copies between this process's memory and the worker's."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin

from gt.client.kernels.kernel import kernel
from gt.client.kernels.learning import shares_elements
from gt.client.kernels.registry import Kernels
from gt.client.session import recording
from gt.client.session.process import process
from gt.client.session.shared_arrays import links
from gt.client.stream import devices, geometry, operands, sites
from gt.client.stream.geometry import TensorSpec
from gt.client.stream.readings import readings
from gt.client.stream.segment import recorder
from gt.errors import ProtocolError
from gt.wire import instructions as wire
from gt.wire.shared import Shared

Tensor = torch.Tensor
KERNELS = Kernels()
CPU = torch.device("cpu")
aten = torch.ops.aten


def fetch(tensor: Tensor) -> Tensor:
    """The elements of a remote tensor, as a contiguous CPU tensor. Waits for the worker, unless they are kept here.

    Raises the worker's errors, and ProtocolError if it sent another number of bytes.
    """
    found, is_kept = _read(tensor)
    return found.clone(memory_format=torch.contiguous_format).resolve_conj().resolve_neg() if is_kept else found


def _read(tensor: Tensor) -> tuple[Tensor, bool]:
    """The elements of a remote tensor, and whether they are kept for others too, not to be written."""
    number, spec, _ = operands.operand(tensor)
    if not spec.size.numel():
        return torch.empty(spec.size, dtype=spec.dtype, device=CPU), False
    process.session()  # raises for a child that was forked: what is kept here is not for it
    links.bring(number)
    with recorder.lock:
        whole = readings.find(number, spec.size_bytes)
        if whole is None:
            all_of_it = tensor.untyped_storage()._gt.spec  # type: ignore[attr-defined]
            fits = spec.size_bytes <= all_of_it.size_bytes
            if not (fits and readings.is_worth_fetching(number, all_of_it.size_bytes)):
                return _fetched(number, spec), False
            whole = _fetched_whole(number, all_of_it)
    return _seen_through(spec, whole), True


def _fetched_whole(number: int, spec: TensorSpec) -> Tensor:
    """All elements of a storage, flat, in its own dtype; they are kept for the reads that follow."""
    flat = geometry.intern(torch.Size((spec.extent(),)), (1,), 0, spec.dtype)
    expected, whole = readings.expect(number), None
    try:
        whole = _fetched(number, flat)
    finally:
        readings.keep(number, expected, whole)
    return whole


def _seen_through(spec: TensorSpec, whole: Tensor) -> Tensor:
    """The elements of a storage as a tensor of geometry `spec` sees them."""
    if spec.dtype is whole.dtype:
        seen = whole.as_strided(spec.size, spec.stride, spec.offset)
    else:
        seen = torch.empty(0, dtype=spec.dtype, device=CPU)
        seen.set_(whole.untyped_storage(), spec.offset, spec.size, spec.stride)  # type: ignore[call-overload]
    seen = seen.conj() if spec.conj else seen
    return seen._neg_view() if spec.neg else seen


def fetch_twice(tensor: Tensor) -> tuple[Tensor, bytes | memoryview]:
    """The CPU tensor that `tensor.cpu()` gives, and the bytes of its elements, row-major, in other memory. Raises as
    `fetch`."""
    number, spec, _ = operands.operand(tensor)
    data = _bytes_of(number, spec) if spec.size.numel() else b""
    return _laid_out(tensor, _made_of(spec, data)), data.map() if isinstance(data, Shared) else data


def _fetched(number: int, spec: TensorSpec) -> Tensor:
    """The elements of a storage, seen through `spec`, from the worker."""
    return _made_of(spec, _bytes_of(number, spec))


def _bytes_of(number: int, spec: TensorSpec) -> bytes | Shared:
    _, data = process.session().ask(lambda request: wire.Fetch(request, number, spec.to_wire()))
    if len(data) != spec.size.numel() * spec.dtype.itemsize:
        raise ProtocolError(f"the worker sent {len(data)} bytes of a {spec.dtype} tensor of sizes {list(spec.size)}")
    return data


def _made_of(spec: TensorSpec, data: bytes | Shared) -> Tensor:
    """A contiguous CPU tensor of these bytes."""
    if isinstance(data, Shared):
        return torch.frombuffer(data.map(), dtype=spec.dtype).view(spec.size)
    made = torch.empty(spec.size, dtype=spec.dtype, device=CPU)  # its memory is aligned as CPU kernels expect
    ctypes.memmove(made.data_ptr(), data, made.nbytes)
    return made


def _laid_out(tensor: Tensor, found: Tensor) -> Tensor:
    """What was fetched of a tensor, with the strides that a copy of it has."""
    if tensor.is_contiguous():
        return found
    stride = torch.empty_like(operands.operand(tensor)[1].meta()).stride()
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=CPU).copy_(found)


WIDEST = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}
_copy_remote = kernel(aten.copy_.default)
_to_copy_remote = kernel(aten._to_copy.default)


@KERNELS.of("copy_")
def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Upload, download or copy on the worker, by where the two tensors are."""
    if not isinstance(src, Tensor):  # a number, which PyTorch passes on as it is
        src = torch.tensor(src, dtype=WIDEST[type(src)], device=CPU)
    if self.device.type != "remote":
        return self.copy_(fetch(src))
    if src.is_complex():
        _warn_of_what_is_lost(src.dtype, self.dtype)
    if src.device.type == "remote" or shares_elements(self):
        return _copy_remote(self, src.to("remote"))  # type: ignore[no-any-return]
    if src.shape != self.shape:
        src = src.expand(self.shape)
    number, spec, _ = operands.operand(self)
    operands.check_kept(number)  # the worker would take the upload for a new tensor
    recording.upload(src, number, spec, sites.here())
    return self


def _warn_of_what_is_lost(before: torch.dtype, after: torch.dtype) -> None:
    """A CPU warns when it casts complex numbers to real ones; here it is made to, by casting one."""
    if not after.is_complex:
        torch.zeros(1, dtype=before, device=CPU).to(after)


@KERNELS.of("_copy_from")
def copy_from(src: Tensor, dst: Tensor, non_blocking: bool = False) -> Tensor:
    """`copy_` with the operands exchanged, which PyTorch calls between devices."""
    return copy_(dst, src)


@KERNELS.of("_copy_from_and_resize")
def copy_from_and_resize(src: Tensor, dst: Tensor) -> Tensor:
    """`copy_from` into a tensor that takes the source's sizes."""
    dst.resize_(src.shape)
    return copy_(dst, src)


@KERNELS.of("_to_copy")
def to_copy(
    self: Tensor,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    """A copy with another dtype, layout, device or memory format, with the strides that the CPU gives."""
    if isinstance(self, UninitializedTensorMixin):
        self = self.data  # a lazy module's parameter hides its shape
    devices.check_index(device)
    options: dict[str, Any] = {}
    if dtype is not None and dtype is not self.dtype:
        options["dtype"] = dtype
    if layout is not None and layout is not self.layout:
        options["layout"] = layout
    if memory_format is not None and memory_format is not torch.preserve_format:
        options["memory_format"] = memory_format
    if self.device.type != "remote":
        return _sent(aten._to_copy.default(self, **options) if options else self)
    if device is None or device.type == "remote":
        if dtype is not None and self.is_complex():
            _warn_of_what_is_lost(self.dtype, dtype)
        return _to_copy_remote(self, **options)  # type: ignore[no-any-return]
    found = _laid_out(self, fetch(self))
    if not options and not pin_memory and device == CPU:
        return found
    return aten._to_copy.default(found, device=device, pin_memory=pin_memory, **options)  # type: ignore[no-any-return]


def _sent(local: Tensor) -> Tensor:
    stride = torch.empty_like(local, device="meta").stride()
    out = operands.make(geometry.intern(local.shape, stride, 0, local.dtype))
    number, spec, _ = operands.operand(out)
    recording.upload(local, number, spec, sites.here(3))
    return out


@KERNELS.of("_local_scalar_dense")
def local_scalar_dense(self: Tensor) -> Any:
    """The one element as a Python number (`item`)."""
    return _read(self)[0].item()
