"""Geometries without tensors: what they see of a storage, and how many bytes that is."""

from __future__ import annotations

import msgspec

from gt.placement.digit import View, row_major
from gt.wire.instructions import Geometry

ITEM_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "complex128": 16, "float32": 4, "int32": 4, "uint32": 4,
    "bfloat16": 2, "float16": 2, "int16": 2, "uint16": 2,
}  # fmt: skip
"""Bytes of an element by dtype; 1 for those that are not here."""


def item_bytes(dtype: str) -> int:
    """Bytes of an element."""
    return ITEM_BYTES.get(dtype, 1)


def view_of(geometry: Geometry) -> View:
    """A geometry without its dtype."""
    return View(geometry.size, geometry.stride, geometry.offset)


def seen_as(geometry: Geometry, view: View) -> Geometry:
    """A geometry of the same dtype, with another view."""
    return msgspec.structs.replace(geometry, size=view.size, stride=view.stride, offset=view.offset)


def is_dense(geometry: Geometry) -> bool:
    """Whether its elements are side by side in memory, each once, in whatever order of the dims."""
    expected = 1
    for stride, count in sorted((stride, n) for n, stride in zip(geometry.size, geometry.stride, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= count
    return True


def by_itself(geometry: Geometry) -> Geometry:
    """The same, at the start of a storage of its own."""
    return msgspec.structs.replace(geometry, offset=0)


def dense(size: tuple[int, ...], dtype: str) -> Geometry:
    """The geometry of a contiguous tensor."""
    return Geometry(size, row_major(size), 0, dtype)
