"""Geometries of remote tensors, interned: equal geometries are one object, so that keys compare by identity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from gt.client.stream.isolation import tracing, untraced
from gt.wire import instructions as wire

LIMIT = 1 << 16
_interned: dict[tuple[object, ...], TensorSpec] = {}


class TensorSpec:
    """Sizes, strides and offset (in elements), dtype, and the conjugate and negative bits of a tensor.

    Two objects may be equal after the table was cleared; that costs a second definition, nothing else.
    """

    __slots__ = ("_form", "_wire", "conj", "contiguous", "dtype", "neg", "offset", "size", "size_bytes", "stride")

    def __init__(
        self, size: torch.Size, stride: tuple[int, ...], offset: int, dtype: torch.dtype, conj: bool, neg: bool
    ) -> None:
        self.size, self.stride, self.offset, self.dtype, self.conj, self.neg = size, stride, offset, dtype, conj, neg
        self.contiguous = offset == 0 and stride == contiguous_stride(size) and (0 not in size or len(size) == 1)
        """It has the strides of a new tensor. (PyTorch's `empty` gives one without elements, of several dims, other
        strides.)"""
        self.size_bytes = self.extent() * dtype.itemsize
        self._wire: wire.Geometry | None = None
        self._form: tuple[object, ...] | None = None

    def to_wire(self) -> wire.Geometry:
        """The same as instructions carry it."""
        if self._wire is None:
            name = dtype_name(self.dtype)
            self._wire = wire.Geometry(tuple(self.size), self.stride, self.offset, name, self.conj, self.neg)
        return self._wire

    def extent(self) -> int:
        """The number of elements from the start of the storage to the end of the last one."""
        if 0 in self.size:
            return 0
        return self.offset + 1 + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))

    @property
    def form(self) -> tuple[object, ...] | None:
        """All but the sizes: dtype, bits, which dims have size 1, and the order of the dims in memory.

        None for a tensor without elements, and for one whose elements overlap in another way than by a stride of 0.
        """
        if self._form is None and 0 not in self.size:
            self._form = self._found_form()
        return self._form

    def _found_form(self) -> tuple[object, ...] | None:
        known = (self.dtype, self.conj, self.neg, tuple([n == 1 for n in self.size]))
        if self.stride == contiguous_stride(self.size):
            return known
        order = dims_in_memory(self.stride)
        strides = [self.stride[dim] for dim in order if self.size[dim] > 1 and self.stride[dim]]
        if len(set(strides)) < len(strides):
            return None
        follows = [self.stride[one] == self.stride[other] * self.size[other] for one, other in pairwise(order)]
        return (*known, order, tuple(follows), self.stride[order[-1]] == 1, tuple([s == 0 for s in self.stride]))

    def meta(self) -> torch.Tensor:
        """A meta tensor of this geometry over a storage that is just large enough."""
        if self.contiguous:
            out = torch.empty(self.size, dtype=self.dtype, device="meta")
        else:
            base = torch.empty(self.extent(), dtype=self.dtype, device="meta")
            out = base.as_strided(self.size, self.stride, self.offset)
        out = out.conj() if self.conj else out
        return out._neg_view() if self.neg else out


def contiguous_stride(size: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
    """The row-major strides that PyTorch gives a new tensor of this size."""
    stride, step = [], 1
    for n in reversed(size):
        stride.append(step)
        step *= max(n, 1)
    return tuple(reversed(stride))


def dims_in_memory(stride: tuple[int, ...]) -> tuple[int, ...]:
    """The dims by their strides, the outermost first."""
    return tuple(sorted(range(len(stride)), key=lambda dim: (-stride[dim], dim)))


def dense_stride(size: Sequence[int], order: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor without gaps whose dims have this order in memory, the outermost first."""
    stride, step = [0] * len(size), 1
    for dim in reversed(order):
        stride[dim] = step
        step *= size[dim]
    return tuple(stride)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def intern(
    size: torch.Size, stride: tuple[int, ...], offset: int, dtype: torch.dtype, conj: bool = False, neg: bool = False
) -> TensorSpec:
    """The one object for a geometry; strides and offset in elements."""
    key = (size, stride, offset, dtype, conj, neg)
    found = _interned.get(key)
    if found is None:
        if len(_interned) >= LIMIT:
            _interned.clear()
        found = _interned[key] = TensorSpec(size, stride, offset, dtype, conj, neg)
    return found


def of(tensor: torch.Tensor) -> TensorSpec:
    """The geometry of a tensor."""
    if tracing():
        return _of_traced(tensor)
    return intern(
        tensor.shape, tensor.stride(), int(tensor.storage_offset()), tensor.dtype, tensor.is_conj(), tensor.is_neg()
    )


_of_traced = untraced(of)


def from_wire(geometry: wire.Geometry) -> TensorSpec:
    """The geometry that an answer names."""
    dtype: torch.dtype = getattr(torch, geometry.dtype)
    return intern(torch.Size(geometry.size), geometry.stride, geometry.offset, dtype, geometry.conj, geometry.neg)
