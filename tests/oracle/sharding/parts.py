"""Cutting tensors by digits, putting parts together, and comparing what came out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gt.placement.digit import Partial

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2, torch.complex64: 1e-4,
              torch.complex128: 1e-9, torch.complex32: 1e-2}  # fmt: skip
"""By dtype: the difference that rounding may make, relative to the largest element."""


def _rank_of(size: int, weight: int, count: int) -> torch.Tensor:
    """The rank that owns each index of a dim."""
    return torch.arange(size) // weight % count


def cut(whole: torch.Tensor, dim: int, weight: int, count: int, rank: int) -> torch.Tensor:
    mine = (_rank_of(whole.shape[dim], weight, count) == rank).nonzero().flatten()
    return whole.index_select(dim, mine)


def join(parts: Sequence[torch.Tensor], dim: int, weight: int, size: int) -> torch.Tensor:
    shape = list(parts[0].shape)
    shape[dim] = size
    whole = torch.empty(shape, dtype=parts[0].dtype)
    owners = _rank_of(size, weight, len(parts))
    for rank, one in enumerate(parts):
        whole.index_copy_(dim, (owners == rank).nonzero().flatten(), one)
    return whole


def combined(parts: Sequence[torch.Tensor], kind: Partial) -> torch.Tensor:
    """The value of which every rank has a part."""
    stacked = torch.stack(list(parts))
    if kind is Partial.SUM:
        return stacked.sum(0, dtype=parts[0].dtype)
    if kind is Partial.AVERAGE:
        return stacked.mean(0)
    return stacked.double().square().sum(0).sqrt().to(stacked.dtype)


def split(whole: torch.Tensor, kind: Partial, count: int) -> list[torch.Tensor]:
    """Random parts that make up a value."""
    if kind is Partial.NORM:
        shares = torch.rand(count, *whole.shape) + 0.1
        shares = (shares / shares.sum(0)).sqrt()
        return [(whole * share).to(whole.dtype) for share in shares]
    if whole.is_floating_point() or whole.is_complex():
        scale = float(whole.abs().nan_to_num(0, 0, 0).max()) if whole.numel() else 1.0
        first = [torch.randn(whole.shape, dtype=whole.dtype) * scale for _ in range(count - 1)]
    else:
        first = [torch.randint(0, 9, whole.shape).to(whole.dtype) for _ in range(count - 1)]
    times = count if kind is Partial.AVERAGE else 1
    return [*first, whole * times - sum(first)]


def difference(expected: torch.Tensor, got: torch.Tensor, summed: Sequence[torch.Tensor] = ()) -> float:
    """The largest difference, relative to the largest element, also of those that were summed; 0 if rounding explains it."""
    tolerance = TOLERANCES.get(expected.dtype)
    if tolerance is not None:
        tolerance = max(TOLERANCES.get(t.dtype, 0.0) for t in (expected, *summed))
    if expected.is_quantized or not expected.numel():
        return 0.0
    if tolerance is None:
        return 0.0 if torch.equal(expected, got) else math.inf
    wide = torch.complex128 if expected.is_complex() else torch.float64
    a, b = expected.to(wide), got.to(wide)
    scale = max((_largest(t) for t in (a, *summed)), default=0.0) or 1e-3
    if torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
        return 0.0
    finite = a.isfinite() & b.isfinite()
    return _largest((a - b)[finite]) / scale if finite.all() else math.inf


def _largest(tensor: torch.Tensor) -> float:
    """The largest finite absolute value."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return 0.0
    return float(tensor.to(torch.complex128).abs().nan_to_num(0, 0, 0).max())
