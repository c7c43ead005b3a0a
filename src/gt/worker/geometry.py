"""Geometries (size, strides, offset, dtype, conj and neg bits) and the tensors and storages that have them."""

from __future__ import annotations

import math

import torch

from gt.errors import ProtocolError
from gt.wire.instructions import Geometry

DTYPES: dict[str, torch.dtype] = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
MAX_BYTES = 1 << 62
"""Beyond this PyTorch's own products of sizes and strides overflow."""


def dtype_of(name: str) -> torch.dtype:
    """PyTorch's dtype of a name such as "float32". Raises ProtocolError for any other name."""
    try:
        return DTYPES[name]
    except KeyError:
        raise ProtocolError(f"unknown dtype {name!r}") from None


def storage_elements(geometry: Geometry) -> int:
    """The number of elements that a storage needs for `geometry`, from the storage's start on."""
    if 0 in geometry.size:
        return 0
    return geometry.offset + 1 + sum((n - 1) * s for n, s in zip(geometry.size, geometry.stride, strict=True))


def storage_bytes(geometry: Geometry) -> int:
    """The bytes that a storage needs for `geometry`. Raises ProtocolError for an unknown dtype."""
    return storage_elements(geometry) * dtype_of(geometry.dtype).itemsize


def geometry_of(tensor: torch.Tensor) -> Geometry:
    """The geometry of a strided tensor."""
    return Geometry(
        size=tuple(tensor.shape),
        stride=tensor.stride(),
        offset=int(tensor.storage_offset()),
        dtype=str(tensor.dtype).removeprefix("torch."),
        conj=tensor.is_conj(),
        neg=tensor.is_neg(),
    )


def check_geometry(geometry: Geometry) -> None:
    """Raises ProtocolError for a geometry that no tensor can have."""
    lists = len(geometry.size) == len(geometry.stride) and min((geometry.offset, *geometry.size, *geometry.stride)) >= 0
    dtype = dtype_of(geometry.dtype)
    if not lists or (geometry.conj and not dtype.is_complex):
        raise ProtocolError(f"no tensor can have {geometry}")
    extent = geometry.offset + 1 + sum(max(n - 1, 0) * s for n, s in zip(geometry.size, geometry.stride, strict=True))
    if max(extent, math.prod(max(n, 1) for n in geometry.size)) * dtype.itemsize > MAX_BYTES:
        raise ProtocolError(f"no memory is large enough for {geometry}")


def with_bits(tensor: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """A view of `tensor` with the conj and neg bits of `geometry`."""
    if geometry.conj:
        tensor = torch._conj(tensor)
    return torch._neg_view(tensor) if geometry.neg else tensor


def has_more(tensor: torch.Tensor, geometry: Geometry) -> bool:
    """Whether the storage of `tensor` has more bytes than `geometry` needs: nobody wrote what is in those."""
    return tensor.untyped_storage().nbytes() > storage_elements(geometry) * tensor.dtype.itemsize


def storage_of(tensor: torch.Tensor) -> int:
    """A number that tensors have in common which share a storage."""
    return tensor.untyped_storage()._cdata


def same_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors share a storage."""
    return storage_of(a) == storage_of(b)
