"""No session sees memory that another one freed: once a worker has had several, fresh memory is filled with zeros.

All sessions of a worker share one heap. Most operators write every byte of their results and run as they are
(`operators.facts.fills`). All others run while PyTorch's own allocator fills what it hands out, however deep inside a
kernel. A worker that has had only one session never does so. docs/decisions/015-foreign-memory.md.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

_c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
_zero_fill = ctypes.c_bool.in_dll(_c10, "FLAGS_caffe2_cpu_allocator_do_zero_fill")
"""PyTorch reads this flag at each allocation of CPU memory: 0.1 us to change, free while it stays as it is."""


class Zeroing:
    """A context in which fresh memory is filled with zeros, on a worker that has had several sessions."""

    __slots__ = ("calls", "device", "needed")

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.needed = False
        """The worker has had more than one session, so that fresh memory may be another one's."""
        self.calls = 0
        """How often memory was filled: operations that ran in this context, and single storages."""

    def __enter__(self) -> None:
        if self.needed:
            self.calls += 1
            _zero_fill.value = True

    def __exit__(self, *_: object) -> None:
        _zero_fill.value = False

    def fill_allocated(self, tensor: torch.Tensor) -> None:
        """Fill the result of an operator that only allocates, on a device whose allocator fills nothing."""
        if self.device.type != "cpu":
            self.fill(tensor)

    def fill(self, tensor: torch.Tensor, start: int = 0) -> None:
        """Fill the storage of `tensor` with zeros from byte `start` on, where that is needed."""
        storage = tensor.untyped_storage()
        if self.needed and storage.nbytes() > start:
            self.calls += 1
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)  # type: ignore[call-overload]
            whole[start:].zero_()
