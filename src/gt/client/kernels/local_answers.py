"""Operators that the client answers without a worker."""

from __future__ import annotations

from typing import Any

import torch

from gt.client.kernels.general import Kernel
from gt.client.kernels.registry import Kernels
from gt.client.stream import devices, operands
from gt.errors import RefusedError

Tensor = torch.Tensor
KERNELS = Kernels()
aten = torch.ops.aten


@KERNELS.of("_efficientzerotensor")
def efficient_zeros(
    size: list[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Tensor:
    """Zeros without memory, for forward-mode AD; here they are ordinary zeros."""
    return torch.zeros(size, dtype=dtype, device=device or "remote")


@KERNELS.of("is_pinned")
def is_pinned(self: Tensor, device: torch.device | None = None) -> bool:
    """No remote tensor is in pinned memory."""
    return False


@KERNELS.of("record_stream")
def record_stream(self: Tensor, stream: Any) -> None:
    """Does nothing: there are no streams."""
    return None


_compatible = aten._has_compatible_shallow_copy_type.default._handle.redispatch_boxed


@KERNELS.of("_has_compatible_shallow_copy_type")
def has_compatible_shallow_copy_type(self: Tensor, other: Tensor) -> bool:
    """Whether `self.data = other` works, which modules ask before they move their parameters."""
    return devices.crosses(self, other) or _compatible(operands.META, self, other)  # type: ignore[no-any-return]


KERNELS["_pin_memory"] = lambda self, device=None: self.clone()
CPU_KERNELS: dict[str, Kernel] = {"_pin_memory": KERNELS["_pin_memory"], "is_pinned": lambda self, device=None: False}
"""Kernels that override the CPU's: pinned memory."""


class NestedError(RefusedError):
    """A nested tensor was asked for."""


@KERNELS.of("_nested_tensor_from_mask")
def nested_tensor_from_mask(t: Tensor, mask: Tensor, mask_check: bool = True) -> Tensor:
    """Raises NestedError."""
    raise NestedError("nested tensors of the strided layout are not carried to workers; pad them instead")
