"""Operands that are indices, offsets or lengths, which kernels do not check: a rule for each operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gt.worker.checks.layer_sizes import MAX_POOLS
from gt.worker.checks.named import NamedArguments

Elements = Sequence[Any]
"""The operands of a call, as tensors."""
Rule = Callable[[NamedArguments, Elements], bool]
"""Whether the elements of a call's operands are indices that are in range."""


def _inside(indices: torch.Tensor | None, limit: int, but: int | None = None) -> bool:
    """Whether all indices are at least 0 and less than `limit`; those that equal `but` are not looked at."""
    if indices is None or not indices.numel():
        return True
    if but is not None:
        indices = indices[indices != but]
        if not indices.numel():
            return True
    low, high = torch.aminmax(indices)
    return bool(low >= 0) and bool(high < limit)


def _pooled(dims: int) -> Rule:
    return lambda args, ins: _inside(args.elements("indices", ins), math.prod(args["self"][-dims:]))


def _classes(args: NamedArguments, ins: Elements) -> bool:
    return _inside(args.elements("target", ins), args["self"][1], args["ignore_index"])


def _bag_indices(args: NamedArguments, ins: Elements) -> bool:
    rows = args["weight"][0] if args["num_weights"] is None else args["num_weights"]
    offsets, bags = args.elements("offsets", ins), args.elements("offset2bag", ins)
    follow = offsets is not None and (bags is None or not bags.numel())  # the bags, from the offsets
    if follow and int((offsets < math.prod(args["indices"])).sum()) > args["grad"][0]:
        return False
    return (
        _inside(args.elements("indices", ins), rows)
        and _inside(args.elements("offset2bag", ins), args["grad"][0])
        and _inside(args.elements("maximum_indices", ins), rows, -1)
    )


def _labels(args: NamedArguments, ins: Elements) -> bool:
    """The lengths stay within inputs and targets, and the targets that they cover are classes."""
    steps, batch, classes = args["log_probs"]
    targets = args.elements("targets", ins)
    inputs, lengths = (
        args[n] if (tensor := args.elements(n, ins)) is None else tensor.flatten().tolist()
        for n in ("input_lengths", "target_lengths")
    )
    kept = args["log_alpha"]
    longest = max(lengths, default=0)
    if targets is None or len(inputs) != batch or len(lengths) != batch or min(lengths, default=0) < 0:
        return False
    if not all(0 <= n <= steps for n in inputs) or (kept is not None and kept[2] < 2 * longest + 1):
        return False
    if targets.dim() == 1:
        return targets.numel() >= sum(lengths) and _inside(targets[: sum(lengths)], classes)
    fits = targets.dim() == 2 and targets.shape[0] == batch and targets.shape[1] >= longest
    return fits and all(_inside(row[:n], classes) for row, n in zip(targets, lengths, strict=True))


def _segment_ends(args: NamedArguments, ins: Elements) -> bool:
    lengths, offsets = args.elements("lengths", ins), args.elements("offsets", ins)
    count = args["data"][args["axis"]]
    if lengths is not None:
        return _inside(lengths, count + 1) and (not lengths.numel() or bool((lengths.sum(-1) <= count).all()))
    return offsets is None or (_inside(offsets, count + 1) and bool((offsets.diff() >= 0).all()))


def _reduced(args: NamedArguments, ins: Elements) -> bool:
    values = args.elements("self", ins)
    return values is not None and _inside(args.elements("arg_out", ins), values.shape[0] + 1)


ELEMENTS: dict[str, Rule] = {
    **{name: _pooled(3 if "3d" in name else 2) for name in MAX_POOLS},
    "nll_loss2d_backward": _classes,
    "_embedding_bag_backward": _bag_indices,
    "_embedding_bag_per_sample_weights_backward": _bag_indices,
    "_ctc_loss": _labels,
    "_ctc_loss_backward": _labels,
    "segment_reduce": _segment_ends,
    "_segment_reduce_backward": _segment_ends,
    "_sparse_mm_reduce_impl_backward": _reduced,
}
"""By an operator's name, for all its overloads."""
