"""Tensors from and to the bytes that travel: the elements, row-major, in the worker's byte order."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from gt.errors import ProtocolError
from gt.wire.shared import Frame, Shared, share

_memory_at = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_at.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_memory_at.restype = ctypes.py_object
_TO_READ = 0x100  # PyBUF_READ


def bytes_of(tensor: torch.Tensor) -> Frame:
    """A copy of the elements of a strided tensor on any device."""
    with readable_bytes(tensor) as own:
        return share(own)


@contextmanager
def readable_bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The elements of a strided tensor on any device, not to be used after the context."""
    if not (tensor.is_cpu and tensor.is_contiguous()) or tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    yield _memory_at(tensor.data_ptr(), tensor.nbytes, _TO_READ)


def tensor_from(frame: Frame, size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A contiguous CPU tensor of these elements. Raises ProtocolError where the frame has more or fewer bytes."""
    count = math.prod(size)
    if len(frame) != count * dtype.itemsize:
        raise ProtocolError(f"an upload of {len(frame)} bytes for {count} elements of {dtype}")
    if not count:
        return torch.empty(size, dtype=dtype)
    data = frame.map() if isinstance(frame, Shared) else bytearray(frame)
    return torch.frombuffer(data, dtype=dtype).reshape(size)
