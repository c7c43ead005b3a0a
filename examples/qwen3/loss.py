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

FEWEST_ROWS = 256
"""Chunks of fewer rows multiply matrices noticeably slower than long ones."""
LEAST_SHARED = 0.5
"""The least share of the targets for which it is worth to multiply the tokens of each sequence apart from the rest."""
MOST_CHUNKS = 20
"""With so many, a chunk of logits and what is made of it take less than a tenth of all logits."""
BLOCK = 16_384
"""Rows of the weight that are cast to another dtype at a time."""


def chunked_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: np.ndarray, chunk: int | None = None
) -> torch.Tensor:
    """Sum of -log softmax(hidden @ weight.T)[target] over the targets that are not IGNORED.

    hidden: [..., tokens, hidden]; weight: [vocabulary, hidden], the output head; targets: int64, the leading dimensions of
    `hidden`, in NumPy, so that tokens without a target are left out before the product and none has to be fetched. Products
    are made in autocast's dtype or the weight's, everything else in float32 (float64 for such weights), as the scalar is.

    The gradients of `hidden` and `weight` are made in the forward pass, chunk by chunk, if they are needed at all; so this
    needs three products where recomputing the logits in the backward pass would need four. `chunk` is the number of tokens
    of a chunk: by default a twentieth of them, but at least 256 (fewer multiply slower; more only take more memory).
    """
    picked, labels = _at_targets(hidden, targets)
    count = sum(map(torch.Tensor.numel, labels))
    chunks = min(max(count // FEWEST_ROWS, 1), MOST_CHUNKS)
    chunk = chunk or max(math.ceil(count / chunks), 1)
    grads = torch.is_grad_enabled() and hidden.requires_grad, torch.is_grad_enabled() and weight.requires_grad
    return _Loss.apply(weight, labels, chunk, product_dtype(weight), grads, *picked)


def _at_targets(hidden: torch.Tensor, targets: np.ndarray) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Hidden states at targets, and the targets, in blocks [sequences, tokens, hidden] and [sequences, tokens].

    The first block has as many tokens of each sequence as every one has, unless these are few; the second has the rest, as
    one sequence. Where workers share the sequences of a batch, each of them has its own part of the first block.
    """
    rows, wanted = hidden.reshape(-1, *hidden.shape[-2:]), targets.reshape(-1, targets.shape[-1])
    is_target = wanted != IGNORED
    shared = is_target.sum(1).min()
    if shared * len(wanted) < LEAST_SHARED * is_target.sum():
        shared = 0
    first = np.argsort(~is_target, axis=1, kind="stable")[:, :shared]
    rest = is_target.copy()
    np.put_along_axis(rest, first, False, axis=1)
    picked, labels = [], []
    if shared:
        picked.append(rows if shared == wanted.shape[1] else _of_each(rows, first))
        labels.append(np.take_along_axis(wanted, first, axis=1))
    if rest.any() or not shared:
        index = torch.from_numpy(np.flatnonzero(rest)).to(hidden.device)
        picked.append(rows.flatten(0, 1).index_select(0, index)[None])
        labels.append(wanted[rest][None])
    return picked, [torch.from_numpy(array).to(hidden.device) for array in labels]


def _of_each(rows: torch.Tensor, index: np.ndarray) -> torch.Tensor:
    """rows[i, index[i]] for each i."""
    where = torch.from_numpy(index).to(rows.device)[..., None]
    return rows.gather(1, where.expand(-1, -1, rows.shape[-1]))


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        weight: torch.Tensor,
        labels: list[torch.Tensor],
        chunk: int,
        dtype: torch.dtype,
        grads: tuple[bool, bool],
        *hidden: torch.Tensor,
    ) -> torch.Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            total, *made = _loss_and_gradients(weight, labels, chunk, dtype, grads, hidden)
        ctx.made = made
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.made is None:
            raise RuntimeError("chunked_cross_entropy keeps its gradients for one backward pass only")
        made, ctx.made = ctx.made, None  # scaled in place: a copy of the weight's would be as large as the weight
        of_weight, *of_hidden = (None if grad is None else grad.mul_(scale) for grad in made)
        return of_weight, None, None, None, None, *of_hidden


def _loss_and_gradients(
    weight: torch.Tensor,
    labels: list[torch.Tensor],
    chunk: int,
    dtype: torch.dtype,
    grads: tuple[bool, bool],
    hidden: tuple[torch.Tensor, ...],
) -> tuple[torch.Tensor | None, ...]:
    """The sum of the losses, and its gradients of `weight` and of each block of `hidden`, where `grads` asks for them."""
    wide = torch.promote_types(dtype, torch.float32)
    losses, of_weight, of_hidden = [], None, []
    for block, wanted in zip(hidden, labels, strict=True):
        of_block = torch.zeros_like(block, dtype=wide) if grads[0] else None
        step = max(chunk // len(block), 1)
        for start in range(0, block.shape[1], step):
            tokens = slice(start, start + step)
            of_part = None if of_block is None else of_block[:, tokens]
            labelled = block[:, tokens].to(dtype), wanted[:, tokens].reshape(-1, 1)
            loss, of_weight = _chunk(*labelled, weight, of_part, of_weight, grads[1])
            losses.append(loss)
        of_hidden.append(None if of_block is None else of_block.to(block.dtype))
    if grads[1] and of_weight is None:
        of_weight = torch.zeros_like(weight)
    total = torch.stack(losses).sum() if losses else torch.zeros((), dtype=wide, device=weight.device)
    return total, of_weight, *of_hidden


def _chunk(
    part: torch.Tensor,
    wanted: torch.Tensor,
    weight: torch.Tensor,
    of_part: torch.Tensor | None,
    of_weight: torch.Tensor | None,
    grads_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The sum of a chunk's losses, and the weight's gradient with that of the chunk; adds the gradient of the chunk's hidden
    states. Its logits are dropped before the next chunk's are made.
    """
    rows = part.flatten(0, 1)
    logits = _logits(rows, weight)
    loss = _softmax_(logits, wanted)
    if of_part is not None or grads_weight:
        logits.scatter_add_(1, wanted, logits.new_full(wanted.shape, -1))  # now the gradient of the logits
    if of_part is not None:
        for block in _blocks(weight, part.dtype):
            of_part += (logits[:, block].to(part.dtype) @ weight[block].to(part.dtype)).view(part.shape)
    return loss, _with_product(of_weight, logits, rows, weight) if grads_weight else None


def _blocks(weight: torch.Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """What is multiplied at a time: all of a weight of the products' dtype, else as much as is cast to it at a time."""
    rows = len(weight) if weight.dtype == dtype else BLOCK
    return (slice(start, start + rows) for start in range(0, len(weight), rows))


def _logits(part: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(part.dtype, torch.float32)
    if weight.dtype == part.dtype:
        return (part @ weight.T).to(wide)
    like = part[:, :1].expand(-1, len(weight))  # so that each worker has the rows which it has of `part`
    logits = torch.empty_like(like, dtype=wide, memory_format=torch.contiguous_format)
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


def _with_product(
    total: torch.Tensor | None, of_logits: torch.Tensor, part: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Add a chunk's gradient of the weight to `total`, in place; returns the first one, where there is no total.

    That does not begin with zeros: where workers share the tokens each has its own part of the product, and so of the total.
    """
    blocks = list(_blocks(weight, part.dtype))
    if total is None:
        products = [(of_logits[:, block].to(part.dtype).T @ part).to(weight.dtype) for block in blocks]
        return products[0] if len(products) == 1 else torch.cat(products)
    for block in blocks:
        of_block = of_logits[:, block].to(part.dtype)
        if weight.dtype == part.dtype:
            total[block].addmm_(of_block.T, part)
        else:
            total[block].add_((of_block.T @ part).to(weight.dtype))
    return total
