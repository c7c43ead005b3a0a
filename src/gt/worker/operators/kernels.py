"""Kernels of GT's own, for operators that clients send and that PyTorch has no fitting kernel for: one row each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gt.worker.operators import graph

aten = torch.ops.aten
Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def histc(self: torch.Tensor, bins: int = 100, min: float = 0, max: float = 0) -> torch.Tensor:
    """`histc`, also of integers (mixture-of-experts routing): exact, through float64."""
    if self.is_floating_point() or self.is_complex() or self.dtype is torch.bool:
        return aten.histc.default(self, bins, min, max)  # type: ignore[no-any-return]
    return aten.histc.default(self.double(), bins, min, max).to(self.dtype)  # type: ignore[no-any-return]


def native_dropout_backward(grad: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """The gradient of a CPU's `dropout`, whose noise has its dtype: for short floats the scale is rounded first."""
    return grad * (mask.to(grad.dtype) * scale)


def linear_backward(input: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, mask: list[bool]) -> Gradients:
    """The gradients of `linear` by the products that autograd uses for its parts, so that the bits are the same.

    `mask`: whether the gradients of input, weight and bias are wanted; None for one that is not.
    """
    if weight.dim() != 2 or input.dim() < 2 or not (input.dim() == 2 or input.is_contiguous()):
        return _by_autograd(input, grad, weight, mask)
    rows, grads = input.flatten(0, -2), grad.flatten(0, -2)
    d_input = _times_transposed(grads, weight, rows).view(input.shape) if mask[0] else None
    d_weight = _transposed_times(rows, grads, weight) if mask[1] else None
    return d_input, d_weight, grads.sum(0) if mask[2] else None


def _column_major(tensor: torch.Tensor) -> bool:
    return tensor.stride(0) == 1 and tensor.stride(1) == tensor.shape[0]


def _times_transposed(grads: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Autograd's gradient of a product's first operand, with the strides of that operand."""
    if _column_major(rows):
        return weight.t().conj().mm(grads.t()).t()
    return grads.mm(weight.conj())


def _transposed_times(rows: torch.Tensor, grads: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Autograd's gradient of a product's second operand, `weight.t()`, transposed back."""
    if _column_major(weight.t()):
        return grads.t().mm(rows.conj())
    return rows.t().conj().mm(grads).t()


def _by_autograd(input: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, mask: list[bool]) -> Gradients:
    """For rare shapes and strides: whatever autograd does with them."""
    with graph.autograd():
        bias = weight.new_zeros(weight.shape[:-1])
        leaves = [t.detach().requires_grad_(m) for t, m in zip((input, weight, bias), mask, strict=True)]
        out = aten.linear.default(leaves[0], leaves[1], leaves[2] if mask[2] else None)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(graph.gradients([out], [grad], wanted))
    d_input, d_weight, d_bias = (next(found) if m else None for m in mask)
    return d_input, d_weight, d_bias


def sparse_mm_reduce(self: torch.Tensor, other: torch.Tensor, reduce: str) -> tuple[torch.Tensor, ...]:
    """A sparse product reduced by `reduce`, and the positions of extremes: backward needs them.

    A CPU notes them only where a gradient may follow.
    """
    if reduce not in ("amax", "amin"):
        return aten._sparse_mm_reduce_impl.default(self, other, reduce)  # type: ignore[no-any-return]
    with graph.autograd():
        return tuple(t.detach() for t in aten._sparse_mm_reduce_impl.default(self, other.detach().requires_grad_(), reduce))


EVERYWHERE: dict[str, Callable[..., Any]] = {"aten::linear_backward": linear_backward}
CPU: dict[str, Callable[..., Any]] = {
    "aten::histc": histc,
    "aten::native_dropout_backward": native_dropout_backward,
    "aten::_sparse_mm_reduce_impl": sparse_mm_reduce,
}
