"""ATen's overloads by their names."""

from __future__ import annotations

import torch


def overload(name: str) -> torch._ops.OpOverload:
    """`add.Tensor`, `relu`: without `aten::`, and without `.default`."""
    base, _, short = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), short or "default")  # type: ignore[no-any-return]
