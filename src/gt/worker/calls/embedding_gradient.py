"""The gradient of an embedding that is added to another one of its weight, and then freed, is never made as a whole.

A weight that is embedding and output head at once gets two gradients of its own size, and then their sum. All rows of the
embedding's are zeros but those of tokens that occur. So where the worker sees such a sum coming, it makes only these rows,
and the sum in the memory of the other gradient. (Not where a slice ends between the two.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from gt.worker.calls.prepared import PreparedCall
from gt.worker.calls.reuse import Upcoming, can_be_taken
from gt.worker.memory import Storages

MOST_TOKENS = 0.5
"""Tokens for each row of the weight. With more of them, most rows would be made."""


def added(call: PreparedCall, upcoming: Upcoming, device: torch.device) -> Callable[[Storages, Any], bool] | None:
    """What runs a call together with the sum that follows it, if that can be done, and says so; None where it never can."""
    raw, arguments = call.raw, call.arguments
    if call.name != "aten::embedding_dense_backward" or not arguments.are_operands_then_constants or device.type != "cpu":
        return None  # on other devices the order of a row's additions depends on the other rows
    count, padding, is_scaled = arguments.constants
    if not 0 < math.prod(call.define.ins[1].size) <= MOST_TOKENS * count:
        return None

    def run(storages: Storages, item: Any) -> bool:
        if (found := upcoming.sum_after(item)) is None:
            return False
        sum_item, sum_call = found
        place = sum_item.args.index(item.out)
        other: Any = sum_item.args[1 - place]
        out = sum_call.out_numbers[0]
        if not _is_of_two(sum_call, place, call) or {other, item.out} != {*upcoming.freed_after(sum_item, 2)}:
            return False
        if not can_be_taken(storages.get(other), out, sum_call.sizes[0]):
            return False
        grad, indices = (storages[id][g] for id, g in zip(item.args, call.ins, strict=True))
        tokens, places = indices.unique(return_inverse=True)
        if tokens[0] < 0 or tokens[-1] >= count:
            return False
        skipped = (tokens == padding).nonzero()
        rows = raw(grad, places, len(tokens), int(skipped) if len(skipped) else -1, is_scaled)
        _add_rows(storages[other][out], tokens.long(), rows, place)
        storages[sum_item.outs[0]] = storages.pop(other)
        upcoming.made = sum_item
        return True

    return run


def _is_of_two(sum_call: PreparedCall, place: int, call: PreparedCall) -> bool:
    """Whether a sum is of the result of `call`, at that place, and of a tensor that has the geometry of the sum."""
    number, out = call.out_numbers[0], sum_call.out_numbers[0]
    return (sum_call.ins[place], sum_call.ins[1 - place]) == (number, out) and sum_call.outs[0].size == call.outs[0].size


def _add_rows(total: torch.Tensor, tokens: torch.Tensor, rows: torch.Tensor, place: int) -> None:
    """Add to `total` a tensor that has `rows` at `tokens` and zeros elsewhere; `place` 0: `total` is the second addend."""
    own = total.index_select(0, tokens)
    sums = own + rows if place else rows + own
    total.add_(0.0)  # -0.0 becomes 0.0
    total.index_copy_(0, tokens, sums)
