"""Views, which share their storage and send nothing, and operators that change a tensor's geometry in place."""

from __future__ import annotations

import functools
from typing import Any

import torch

from gt.client.calls.schemas import OpOverload, overload
from gt.client.kernels.general import Kernel
from gt.client.kernels.registry import Kernels
from gt.client.stream import geometry, operands
from gt.client.stream.isolation import untraced

Tensor = torch.Tensor
KERNELS = Kernels()


for _name in ("as_strided", "view", "unfold", "_reshape_alias", "view_as_real", "view_as_complex"):
    KERNELS[_name] = functools.partial(overload(_name)._handle.redispatch_boxed, operands.META)


def _geometry_in_place(op: OpOverload) -> Kernel:
    def run(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        spec = geometry.of(self)
        meta = spec.meta()
        args = tuple([geometry.of(a).meta() if isinstance(a, Tensor) else a for a in args])
        op(meta, *args, **kwargs)
        return operands.regeometry(self, geometry.of(meta))

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


@KERNELS.of("t_")
def t_(self: Tensor) -> Tensor:
    """Transpose [n, m] in place. Raises PyTorch's RuntimeError for more than two dims."""
    if self.dim() > 2:
        raise RuntimeError(f"t_() expects a tensor with <= 2 dimensions, but self is {self.dim()}D")
    return self.transpose_(0, 0 if self.dim() < 2 else 1)


@KERNELS.of("detach_")
def detach_(self: Tensor) -> Tensor:
    """In inference mode, where autograd does not answer it, there is nothing to detach from."""
    return self


@KERNELS.of("set_.source_Storage_storage_offset")
def set_storage(self: Tensor, source: Any, offset: int, size: list[int], stride: tuple[int, ...] = ()) -> Tensor:
    """`set_` to a part of a storage; sizes, strides and offset in elements."""
    storage = getattr(source, "_untyped_storage", source)
    strides = tuple(stride) or geometry.contiguous_stride(tuple(size))
    spec = geometry.intern(torch.Size(size), strides, offset, self.dtype)
    operands.set_data(self, operands.over_storage(operands.grown(storage, spec), spec))
    return self


@KERNELS.of("set_.source_Storage")
def set_whole_storage(self: Tensor, source: Any) -> Tensor:
    """`set_` to all of a storage, as one dim."""
    storage = getattr(source, "_untyped_storage", source)
    return set_storage(self, storage, 0, [storage.nbytes() // self.element_size()], (1,))


@KERNELS.of("set_.source_Tensor")
def set_tensor(self: Tensor, source: Tensor) -> Tensor:
    """`set_` to another tensor's storage and geometry."""
    operands.set_data(self, source.detach())
    return self


@KERNELS.of("set_")
def set_empty(self: Tensor) -> Tensor:
    """`set_` to no elements."""
    operands.set_data(self, torch.empty(0, dtype=self.dtype, device=self.device))
    return self
