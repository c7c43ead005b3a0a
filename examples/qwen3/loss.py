"""Cross-entropy without the logits of all tokens: they are made, used and dropped a chunk of rows at a time.

Ordinary PyTorch, as model.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from model import product_dtype
from prepared import IGNORED

FEWEST_ROWS = 200
"""Chunks of fewer rows multiply matrices noticeably slower than long ones."""
MOST_CHUNKS = 20
"""With so many, a chunk of logits and what is made of it take less than a tenth of all logits."""
BLOCK = 16_384
"""Rows of the weight that are cast to another dtype at a time."""


def chunked_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: np.ndarray, chunk: int | None = None
) -> torch.Tensor:
    """Sum of -log softmax(hidden @ weight.T)[target] over the targets that are not IGNORED.

    hidden: [..., hidden]; weight: [vocabulary, hidden], the output head; targets: int64, the leading dimensions of `hidden`,
    in NumPy, so that rows without a target are left out before the product and none has to be fetched. The products are made
    in autocast's dtype or the weight's, everything else in float32 (float64 for such weights), the dtype of the scalar.

    The gradients of `hidden` and `weight` are made in the forward pass, chunk by chunk, if they are needed at all; so this
    needs three products where recomputing the logits in the backward pass would need four. `chunk` is the number of rows of
    a chunk: by default a twentieth of them, but at least 200 (fewer multiply slower; more only take more memory).
    """
    rows = np.flatnonzero(targets.reshape(-1) != IGNORED)
    picked = hidden.flatten(0, -2)
    if len(rows) < targets.size:
        picked = picked.index_select(0, torch.from_numpy(rows).to(hidden.device))
    labels = torch.from_numpy(targets.reshape(-1)[rows]).to(hidden.device)
    chunks = min(max(len(rows) // FEWEST_ROWS, 1), MOST_CHUNKS)
    chunk = chunk or max(math.ceil(len(rows) / chunks), 1)
    grads = torch.is_grad_enabled() and hidden.requires_grad, torch.is_grad_enabled() and weight.requires_grad
    return _Loss.apply(picked, weight, labels, chunk, product_dtype(weight), grads)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        chunk: int,
        dtype: torch.dtype,
        grads: tuple[bool, bool],
    ) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            total, *made = _loss_and_gradients(hidden, weight, labels, chunk, dtype, grads)
        ctx.made = made
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.made is None:
            raise RuntimeError("chunked_cross_entropy keeps its gradients for one backward pass only")
        made, ctx.made = ctx.made, None  # scaled in place: a copy of the weight's would be as large as the weight
        return *(None if grad is None else grad.mul_(scale) for grad in made), None, None, None, None


def _loss_and_gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    chunk: int,
    dtype: torch.dtype,
    grads: tuple[bool, bool],
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The sum of the losses, and its gradients of `hidden` and `weight` where `grads` asks for them."""
    wide = torch.promote_types(dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=hidden.device)
    of_hidden = torch.zeros(hidden.shape, dtype=wide, device=hidden.device) if grads[0] else None
    of_weight = torch.zeros_like(weight) if grads[1] else None
    for start in range(0, len(labels), chunk):
        rows = slice(start, start + chunk)
        of_part = None if of_hidden is None else of_hidden[rows]
        total += _chunk(hidden[rows].to(dtype), weight, labels[rows, None], of_part, of_weight)
    return total, None if of_hidden is None else of_hidden.to(hidden.dtype), of_weight


def _chunk(
    part: torch.Tensor,
    weight: torch.Tensor,
    wanted: torch.Tensor,
    of_part: torch.Tensor | None,
    of_weight: torch.Tensor | None,
) -> torch.Tensor:
    """The sum of a chunk's losses; adds its gradients. Its logits are dropped before the next chunk's are made."""
    logits = _logits(part, weight)
    loss = _softmax_(logits, wanted)
    if of_part is not None or of_weight is not None:
        logits.scatter_add_(1, wanted, logits.new_full(wanted.shape, -1))  # now the gradient of the logits
        _add_gradients_(logits, part, weight, of_part, of_weight)
    return loss


def _blocks(weight: torch.Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """What is multiplied at a time: all of a weight of the products' dtype, else as much as is cast to it at a time."""
    rows = len(weight) if weight.dtype == dtype else BLOCK
    return (slice(start, start + rows) for start in range(0, len(weight), rows))


def _logits(part: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(part.dtype, torch.float32)
    if weight.dtype == part.dtype:
        return (part @ weight.T).to(wide)
    logits = torch.empty(len(part), len(weight), dtype=wide, device=part.device)
    for block in _blocks(weight, part.dtype):
        logits[:, block] = part @ weight[block].to(part.dtype).T
    return logits


def _softmax_(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Turn logits into probabilities in place; returns the sum of -log p(wanted)."""
    logits -= logits.amax(1, keepdim=True)
    of_wanted = logits.gather(1, wanted)
    sums = logits.exp_().sum(1, keepdim=True)
    logits /= sums
    return (sums.log() - of_wanted).sum()


def _add_gradients_(
    of_logits: torch.Tensor,
    part: torch.Tensor,
    weight: torch.Tensor,
    of_part: torch.Tensor | None,
    of_weight: torch.Tensor | None,
) -> None:
    for block in _blocks(weight, part.dtype):
        of_block = of_logits[:, block].to(part.dtype)
        if of_part is not None:
            of_part += of_block @ weight[block].to(part.dtype)
        if of_weight is not None and of_weight.dtype == part.dtype:
            of_weight[block].addmm_(of_block.T, part)
        elif of_weight is not None:
            of_weight[block] += of_block.T @ part
