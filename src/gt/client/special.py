"""Operators with a kernel of their own, each for a reason: copies between devices, geometry in place, and what the
client answers without a worker."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin

from gt.client import current, geometry, record, sites, tensors
from gt.client.aside import tracing, untraced
from gt.client.calls import OpOverload
from gt.client.kernels import Kernel, kernel, shares_elements
from gt.client.operators import overload
from gt.errors import ProtocolError, RefusedError
from gt.wire import instructions as wire
from gt.wire.shared import Shared

Tensor = torch.Tensor
CPU = torch.device("cpu")
aten = torch.ops.aten
KERNELS: dict[str, Kernel] = {}
"""Overload name without `aten::` -> kernel on the device's key."""
CPU_KERNELS: dict[str, Kernel] = {}
"""Overrides on the CPU key: what PyTorch asks of pinned memory."""
ALIASING = {"_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", "lift", "lift_fresh"}
"""Operators that are views though their schema does not say so: PyTorch makes them from `view` and `as_strided`."""


def special(*names: str) -> Callable[[Kernel], Kernel]:
    def add(function: Kernel) -> Kernel:
        KERNELS.update(dict.fromkeys(names, untraced(function)))
        return function

    return add


# -- to and from the client ----------------------------------------------------------------------------------------------


def fetch(tensor: Tensor) -> Tensor:
    """The elements of a remote tensor, as a contiguous CPU tensor. Waits for the worker.

    Raises its errors, and ProtocolError where it sent another number of bytes: they are copied as they are.
    """
    number, spec, _ = record.operand(tensor)
    if not spec.size.numel():
        return torch.empty(spec.size, dtype=spec.dtype, device=CPU)
    _, data = current.session().ask(lambda request: wire.Fetch(request, number, spec.to_wire()))
    if len(data) != spec.size.numel() * spec.dtype.itemsize:
        raise ProtocolError(f"the worker sent {len(data)} bytes of a {spec.dtype} tensor of sizes {list(spec.size)}")
    if isinstance(data, Shared):
        return torch.frombuffer(data.map(), dtype=spec.dtype).view(spec.size)
    made = torch.empty(spec.size, dtype=spec.dtype, device=CPU)  # whose memory is aligned as the kernels of a CPU expect it
    ctypes.memmove(made.data_ptr(), data, made.nbytes)
    return made


WIDEST = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}
_copy_remote = kernel(aten.copy_.default)
_to_copy_remote = kernel(aten._to_copy.default)


@special("copy_")
def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    if not isinstance(src, Tensor):  # a number, which PyTorch hands on as such
        src = torch.tensor(src, dtype=WIDEST[type(src)], device=CPU)
    if self.device.type != "remote":
        return self.copy_(fetch(src))
    if src.is_complex():
        _warn_of_what_is_lost(src.dtype, self.dtype)
    if src.device.type == "remote" or shares_elements(self):
        return _copy_remote(self, src.to("remote"))  # type: ignore[no-any-return]
    if src.shape != self.shape:
        src = src.expand(self.shape)
    number, spec, _ = record.operand(self)
    record.upload(src, number, spec, sites.here())
    return self


def _warn_of_what_is_lost(before: torch.dtype, after: torch.dtype) -> None:
    """A CPU warns where it casts complex numbers to real ones: it does so here, of one of them."""
    if not after.is_complex:
        torch.zeros(1, dtype=before, device=CPU).to(after)


@special("_copy_from")
def copy_from(src: Tensor, dst: Tensor, non_blocking: bool = False) -> Tensor:
    return copy_(dst, src)


@special("_copy_from_and_resize")
def copy_from_and_resize(src: Tensor, dst: Tensor) -> Tensor:
    dst.resize_(src.shape)
    return copy_(dst, src)


@special("_to_copy")
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
    if isinstance(self, UninitializedTensorMixin):
        self = self.data  # a lazy module's parameter tells its shape to nobody
    record.check_index(device)
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
    found = fetch(self)
    if not self.is_contiguous():
        stride = torch.empty_like(record.operand(self)[1].meta()).stride()
        found = torch.empty_strided(self.shape, stride, dtype=self.dtype, device=CPU).copy_(found)
    if not options and not pin_memory and device == CPU:
        return found
    return aten._to_copy.default(found, device=device, pin_memory=pin_memory, **options)  # type: ignore[no-any-return]


def _sent(local: Tensor) -> Tensor:
    stride = torch.empty_like(local, device="meta").stride()
    out = record.make(geometry.intern(local.shape, stride, 0, local.dtype))
    number, spec, _ = record.operand(out)
    record.upload(local, number, spec, sites.here(3))
    return out


@special("_local_scalar_dense")
def local_scalar_dense(self: Tensor) -> Any:
    return fetch(self).item()


# -- what autocast reaches into ------------------------------------------------------------------------------------------


def _apart_under_autocast(op: OpOverload) -> Kernel:
    """For the kernels that call operators which autocast casts, below autograd: the worker knows of no autocast."""
    whole, parts = kernel(op), torch._C.DispatchKey.CompositeExplicitAutogradNonFunctional

    def run(*args: Any, **kwargs: Any) -> Any:
        return op._op_dk(parts, *args, **kwargs) if torch.is_autocast_enabled("remote") else whole(*args, **kwargs)

    return run


for _name in ("_trilinear", "linalg_pinv.atol_rtol_tensor"):
    KERNELS[_name] = _apart_under_autocast(overload(_name))


# -- what PyTorch's tracer does not take down ------------------------------------------------------------------------------

_convolve = kernel(aten.convolution.default)


def convolution(*args: Any) -> Any:
    """The tracer takes down the `_convolution` that PyTorch makes of it on its own devices, and the worker here."""
    if tracing():
        return aten.convolution.default._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args)
    return _convolve(*args)


KERNELS["convolution"] = convolution
KERNELS["_convolution"] = lambda *args: _convolve(*args[:9])


# -- geometry in place: the tensor that the caller holds changes ---------------------------------------------------------


def _geometry_in_place(op: OpOverload) -> Kernel:
    def run(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        spec = geometry.of(self)
        meta = spec.meta()
        args = tuple([geometry.of(a).meta() if isinstance(a, Tensor) else a for a in args])
        op(meta, *args, **kwargs)
        return record.regeometry(self, geometry.of(meta))

    return run


for _name in (
    "transpose_",
    "squeeze_",
    "squeeze_.dim",
    "squeeze_.dims",
    "unsqueeze_",
    "as_strided_",
    "swapaxes_",
    "resize_",
    "resize_as_",
):
    KERNELS[_name] = untraced(_geometry_in_place(overload(_name)))


@special("t_")
def t_(self: Tensor) -> Tensor:
    if self.dim() > 2:
        raise RuntimeError(f"t_() expects a tensor with <= 2 dimensions, but self is {self.dim()}D")
    return self.transpose_(0, 0 if self.dim() < 2 else 1)


@special("set_.source_Storage_storage_offset")
def set_storage(self: Tensor, source: Any, offset: int, size: list[int], stride: tuple[int, ...] = ()) -> Tensor:
    storage = getattr(source, "_untyped_storage", source)
    strides = tuple(stride) or geometry.contiguous_stride(tuple(size))
    spec = geometry.intern(torch.Size(size), strides, offset, self.dtype)
    record.set_data(self, record.over_storage(record.grown(storage, spec), spec))
    return self


@special("set_.source_Storage")
def set_whole_storage(self: Tensor, source: Any) -> Tensor:
    storage = getattr(source, "_untyped_storage", source)
    return set_storage(self, storage, 0, [storage.nbytes() // self.element_size()], (1,))


@special("set_.source_Tensor")
def set_tensor(self: Tensor, source: Tensor) -> Tensor:
    record.set_data(self, source.detach())
    return self


@special("set_")
def set_empty(self: Tensor) -> Tensor:
    record.set_data(self, torch.empty(0, dtype=self.dtype, device=self.device))
    return self


# -- views: PyTorch's own geometry, the storage shared, nothing sent ----------------------------------------------------


def _view(op: OpOverload) -> Kernel:
    redispatch, meta = op._handle.redispatch_boxed, record.META
    return lambda *args, **kwargs: redispatch(meta, *args, **kwargs)


for _name in ("as_strided", "view", "unfold", "_reshape_alias", "view_as_real", "view_as_complex"):
    KERNELS[_name] = _view(overload(_name))


# -- what the client answers ---------------------------------------------------------------------------------------------


@special("_efficientzerotensor")
def efficient_zeros(
    size: list[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Tensor:
    """Forward-mode AD asks for zeros without memory; here they are real."""
    return torch.zeros(size, dtype=dtype, device=device or "remote")


@special("is_pinned")
def is_pinned(self: Tensor, device: torch.device | None = None) -> bool:
    return False


@special("record_stream")
def record_stream(self: Tensor, stream: Any) -> None:
    return None


_compatible = aten._has_compatible_shallow_copy_type.default._handle.redispatch_boxed


@special("_has_compatible_shallow_copy_type")
def has_compatible_shallow_copy_type(self: Tensor, other: Tensor) -> bool:
    """Whether `self.data = other` works: modules ask before they move their parameters."""
    return tensors.crosses(self, other) or _compatible(record.META, self, other)  # type: ignore[no-any-return]


KERNELS["_pin_memory"] = CPU_KERNELS["_pin_memory"] = lambda self, device=None: self.clone()
CPU_KERNELS["is_pinned"] = lambda self, device=None: False


class NestedError(RefusedError):
    """A nested tensor was asked for."""


@special("_nested_tensor_from_mask")
def nested_tensor_from_mask(t: Tensor, mask: Tensor, mask_check: bool = True) -> Tensor:
    raise NestedError("nested tensors of the strided layout are not carried to workers; pad them instead")


_pack = kernel(aten._pack_padded_sequence.default)


@special("_pack_padded_sequence")
def pack_padded_sequence(input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """The batch sizes, which PyTorch keeps on the CPU, follow from the lengths alone."""
    steps, rows = (input.shape[1], input.shape[0]) if batch_first else (input.shape[0], input.shape[1])
    stand_in = torch.empty(steps, rows, 1, device=CPU)
    sizes = aten._pack_padded_sequence.default(stand_in, lengths.cpu(), False)[1]
    return _pack(input, lengths, batch_first)[0], sizes


_observe = kernel(aten._fused_moving_avg_obs_fq_helper.default)


@special("_fused_moving_avg_obs_fq_helper")
def fused_moving_avg_obs_fq_helper(
    self: Tensor, observer_on: Tensor, fake_quant_on: Tensor, *state: Any, per_row_fake_quant: bool = False, **options: Any
) -> Any:
    """What an observer keeps per channel begins empty, and gets its size here, as the operator would give it."""
    *kept, average, low, high, axis = state[:8]
    per_row = bool(state[8]) if len(state) > 8 else per_row_fake_quant
    if per_row and not kept[0].numel():
        for tensor, start in zip(kept, (math.inf, -math.inf, 1, 0), strict=True):
            tensor.resize_(self.shape[axis]).fill_(start)
    return _observe(self, observer_on, fake_quant_on, *kept, average, low, high, axis, per_row, *state[9:], **options)
