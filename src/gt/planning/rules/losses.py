"""Losses, and their gradients."""

from __future__ import annotations

from dataclasses import replace

from gt.placement.digit import Partial
from gt.planning.rule import Label, Labels, Rule
from gt.planning.rules import labelling
from gt.planning.rules.reading import Row, Table, argument, operand, operands_of
from gt.wire import instructions as wire

NONE, MEAN, SUM = 0, 1, 2
"""ATen's numbers of the reductions."""
KINDS = {MEAN: Partial.AVERAGE, SUM: Partial.SUM}


def elementwise(reduction_at: int) -> Row:
    """A row of a loss of each element by itself, which is then reduced as the argument at `reduction_at` says."""

    def row(define: wire.Define) -> Rule | None:
        reduction = argument(define, reduction_at, "reduction", MEAN)
        if type(reduction) is not int or reduction not in (NONE, *KINDS):
            return None
        shape = define.ins[0].size
        ins = _broadcast(define, shape)
        labels: Labels = labelling.from_the_right(shape, shape)
        if reduction == NONE:
            return labelling.rule(ins, {0: labels})
        reduced: dict[int, frozenset[Label]] = {0: labelling.labels_in([labels])}
        return labelling.rule(ins, {0: ()}, sums=reduced, partial=KINDS[reduction])

    return row


def elementwise_backward(reduction_at: int) -> Row:
    """A row of the gradient of such a loss, `(grad, self, target, ...)`. That of a mean takes a lowering."""

    def row(define: wire.Define) -> Rule | None:
        reduction = argument(define, reduction_at, "reduction", MEAN)
        if type(reduction) is not int or reduction not in (NONE, *KINDS):
            return None
        shape = define.ins[1].size
        found = labelling.rule(_broadcast(define, shape), {0: labelling.from_the_right(shape, shape)})
        return found if reduction != MEAN else _lowered(found, "mean_backward", found.groups[0].may_shard)

    return row


def _broadcast(define: wire.Define, shape: tuple[int, ...]) -> dict[int, Labels]:
    read = operands_of(define.args)
    return {i: labelling.from_the_right(define.ins[i].size, shape) for i in read if len(define.ins[i].size) <= len(shape)}


def _batch(dims: int) -> Labels:
    """The labels of a target: the batch, and the dims of an image."""
    return ("b", *(("space", k) for k in range(dims - 1)))


def nll_loss(define: wire.Define) -> Rule | None:
    """`nll_loss_forward(self [b, c], target [b], weight, reduction, ignore_index)` and `nll_loss2d_forward`: the loss and
    the sum of the weights.

    The mean is the quotient of two sums, and a sharded class dim takes a lowering too: both are in the one named `nll`.
    """
    target = operand(define, 1)
    reduction = argument(define, 3, "reduction", MEAN)
    if target is None or len(define.ins[0].size) < 2 or type(reduction) is not int:
        return None
    rows = _batch(len(define.ins[target].size))
    classes: Label = "c" if len(rows) == 1 else None
    weighted = len(define.ins) > 2
    ins: dict[int, Labels] = {0: (rows[0], classes, *rows[1:]), target: rows}
    ins.update(dict.fromkeys(range(2, len(define.ins)), (None if weighted else classes,)))
    return _reduced_nll(ins, rows, reduction, weighted)


def _reduced_nll(ins: dict[int, Labels], rows: Labels, reduction: int, weighted: bool) -> Rule | None:
    every = labelling.labels_in([rows])
    classes: frozenset[Label] = frozenset({"c"})
    if reduction == NONE:
        return labelling.rule(ins, {0: rows, 1: ()}, classes)
    if reduction == SUM:
        sums: dict[int, frozenset[Label]] = {0: every | classes, 1: every}
        found = labelling.rule(ins, {0: (), 1: ()}, classes if weighted else (), sums=sums, contiguous=classes)
        return found if weighted else _lowered(found, "nll", classes)
    if weighted or reduction != MEAN:
        return None
    found = labelling.rule(ins, {0: (), 1: ()}, sums={0: every | classes, 1: every}, contiguous=classes)
    return _lowered(found, "nll", every | classes)


def _lowered(found: Rule, lowering: str, labels: frozenset[Label]) -> Rule:
    lowered = labels & found.groups[0].may_shard
    return replace(found, lowering=lowering, lowered=lowered) if lowered else found


def nll_loss_backward(define: wire.Define) -> Rule | None:
    """`nll_loss_backward(grad, self [b, c], target [b], weight, reduction, ignore_index, total_weight)`: the whole sum of
    the weights is given. A sharded class dim takes a lowering."""
    given, target, weight, total = (operand(define, k) for k in (1, 2, 3, 6))
    if given is None or target is None or total is None or len(define.ins[given].size) < 2:
        return None
    rows = _batch(len(define.ins[target].size))
    classes: Label = "c" if len(rows) == 1 and weight is None else None
    full: Labels = (rows[0], classes, *rows[1:])
    grad: Labels = rows if argument(define, 4, "reduction", MEAN) == NONE else (None,) * len(define.ins[0].size)
    ins: dict[int, Labels] = {0: grad, given: full, target: rows, total: ()}
    if weight is not None:
        ins[weight] = (None,)
    by_class: frozenset[Label] = frozenset({"c"})
    unread = frozenset([total]) if argument(define, 4, "reduction", MEAN) in (NONE, SUM) else frozenset()
    return _lowered(labelling.rule(ins, {0: full}, contiguous=by_class, unread=unread), "nll_backward", by_class)


_FORWARD = {
    "mse_loss": 2,
    "smooth_l1_loss": 2,
    "huber_loss": 2,
    "soft_margin_loss": 2,
    "binary_cross_entropy": 3,
    "binary_cross_entropy_with_logits": 4,
}
_BACKWARD = {
    "mse_loss_backward": 3,
    "smooth_l1_loss_backward": 3,
    "huber_loss_backward": 3,
    "soft_margin_loss_backward": 3,
    "binary_cross_entropy_backward": 4,
}
TABLE: Table = {
    **{name: elementwise(at) for name, at in _FORWARD.items()},
    **{name: elementwise_backward(at) for name, at in _BACKWARD.items()},
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), nll_loss),
    **dict.fromkeys(("nll_loss_backward", "nll_loss2d_backward"), nll_loss_backward),
}
