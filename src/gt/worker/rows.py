"""Operators that PyTorch's accelerator paths call and a CPU has no kernel for: one row each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def histc(self: torch.Tensor, bins: int = 100, min: float = 0, max: float = 0) -> torch.Tensor:
    """`histc` of integers (mixture-of-experts routing): exact, through float64."""
    if self.is_floating_point():
        return torch.ops.aten.histc.default(self, bins, min, max)  # type: ignore[no-any-return]
    return torch.ops.aten.histc.default(self.double(), bins, min, max).to(self.dtype)  # type: ignore[no-any-return]


CPU: dict[str, Callable[..., Any]] = {"aten::histc": histc}
