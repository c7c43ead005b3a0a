"""Normalisation layers: what is normalised over is whole on each rank; everything else may be sharded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gt.planning.rule import Arguments, Label, Labels, Localise, Rule
from gt.planning.rules import labelling
from gt.planning.rules.reading import Row, Table, argument, operand, result_size
from gt.wire import instructions as wire


def _rows_and_columns(define: wire.Define, operand_at: int, shape_at: int) -> tuple[Labels, Labels, Labels] | None:
    """Labels of the dims before those that are normalised, of these, and of a statistic of each row."""
    shape = argument(define, shape_at)
    dims = len(define.ins[operand_at].size)
    if not isinstance(shape, list) or len(shape) > dims:
        return None
    rows: Labels = tuple(("row", k) for k in range(dims - len(shape)))
    columns: Labels = tuple(("column", k) for k in range(len(shape)))
    return rows, columns, (*rows, *(None,) * len(shape))


def layer_norm(define: wire.Define) -> Rule | None:
    """`native_layer_norm(input, shape, weight, bias, eps)`, and `_fused_rms_norm`, which has no bias and no mean."""
    found = _rows_and_columns(define, 0, 1)
    if found is None:
        return None
    rows, columns, statistic = found
    ins = {i: columns if i else (*rows, *columns) for i in range(len(define.ins))}
    outs = {o: statistic if o else (*rows, *columns) for o in range(len(define.outs))}
    return labelling.rule(ins, outs, columns)


def layer_norm_backward(statistics: int) -> Row:
    """A row of `(grad, input, shape, statistics..., weight, bias?, mask)`: gradients of input, weight and bias.

    `statistics`: how many there are, which is also how many parameters: a mean comes with a bias.
    """

    def row(define: wire.Define) -> Rule | None:
        found = _rows_and_columns(define, 1, 2)
        if found is None:
            return None
        rows, columns, statistic = found
        full: Labels = (*rows, *columns)
        ins: dict[int, Labels] = {0: full, 1: full, **dict.fromkeys(range(2, 2 + statistics), statistic)}
        ins.update(dict.fromkeys(range(2 + statistics, len(define.ins)), columns))
        parameters: labelling.Results = [(columns, frozenset(rows))] * statistics
        mask = argument(define, 3 + 2 * statistics, "output_mask")
        return labelling.masked(ins, [(full, frozenset()), *parameters], mask, frozenset(columns))

    return row


def _batch_and_channels(size: tuple[int, ...]) -> Labels:
    return ("b", "c", *(("space", k) for k in range(len(size) - 2)))


def _batch_of(operand_at: int, position: int) -> Localise:
    """The local call names the local number of images."""

    def localise(
        args: list[wire.Arg],
        kwargs: dict[str, wire.Arg],
        ins: Mapping[int, wire.Geometry],
        outs: Mapping[int, wire.Geometry],
    ) -> Arguments:
        return [*args[:position], ins[operand_at].size[0], *args[position + 1 :]], kwargs

    return localise


def group_norm(define: wire.Define) -> Rule | None:
    """`native_group_norm(input, weight, bias, N, C, HxW, group, eps)`: only the batch may be sharded."""
    size = define.ins[0].size
    labels: Labels = ("b", *(None,) * (len(size) - 1))
    ins: dict[int, Labels] = {i: labels if i == 0 else (None,) for i in range(len(define.ins))}
    found = labelling.rule(ins, {0: labels, 1: ("b", None), 2: ("b", None)})
    return replace(found, localise=_batch_of(0, 3))


def group_norm_backward(define: wire.Define) -> Rule | None:
    """`native_group_norm_backward(grad, input, mean, rstd, weight, N, C, HxW, group, mask)`."""
    size = define.ins[1].size
    labels: Labels = ("b", *(None,) * (len(size) - 1))
    ins: dict[int, Labels] = {0: labels, 1: labels, 2: ("b", None), 3: ("b", None)}
    ins.update(dict.fromkeys(range(4, len(define.ins)), (None,)))
    batch: frozenset[Label] = frozenset({"b"})
    every: labelling.Results = [(labels, frozenset()), ((None,), batch), ((None,), batch)]
    found = labelling.masked(ins, every, argument(define, 9, "output_mask"), frozenset())
    return None if found is None else replace(found, localise=_batch_of(1, 5))


def batch_norm(training_at: int) -> Row:
    """A row of batch normalisation. In training the statistics are those of the whole batch: only channels are sharded."""

    def row(define: wire.Define) -> Rule | None:
        size = define.ins[0].size
        training = argument(define, training_at, "training", False)
        if len(size) < 2 or type(training) is not bool:
            return None
        labels = _batch_and_channels(size)
        ins: dict[int, Labels] = {i: labels if i == 0 else ("c",) for i in range(len(define.ins))}
        outs: dict[int, Labels] = {0: labels}
        outs.update({o: ("c",) if result_size(define, o) == (size[1],) else (None,) for o in range(1, len(define.outs))})
        unsharded = [label for label in labels if label != "c"] if training else []
        found = labelling.rule(ins, outs, unsharded)
        return _with_statistics_written(found, define) if training else found

    return row


def _with_statistics_written(found: Rule, define: wire.Define) -> Rule:
    """`native_batch_norm` writes its running statistics, which its schema does not say."""
    statistics = [operand(define, 3), operand(define, 4)]
    return replace(found, groups=(replace(found.groups[0], written=frozenset(i for i in statistics if i is not None)),))


def batch_norm_backward(define: wire.Define) -> Rule | None:
    """`native_batch_norm_backward(grad, input, weight, running statistics, saved statistics, train, eps, mask)`."""
    size = define.ins[1].size
    training = argument(define, 7, "train")
    if len(size) < 2 or type(training) is not bool:
        return None
    labels = _batch_and_channels(size)
    ins: dict[int, Labels] = {0: labels, 1: labels}
    ins.update({i: ("c",) if define.ins[i].size == (size[1],) else (None,) for i in range(2, len(define.ins))})
    rest = frozenset(label for label in labels if label != "c")
    every: labelling.Results = [(labels, frozenset()), (("c",), rest), (("c",), rest)]
    return labelling.masked(ins, every, argument(define, 9, "output_mask"), rest if training else frozenset())


TABLE: Table = {
    "native_layer_norm": layer_norm,
    "_fused_rms_norm": layer_norm,
    "native_layer_norm_backward": layer_norm_backward(2),
    "_fused_rms_norm_backward": layer_norm_backward(1),
    "native_group_norm": group_norm,
    "native_group_norm_backward": group_norm_backward,
    "native_batch_norm": batch_norm(5),
    "_native_batch_norm_legit": batch_norm(5),
    "_native_batch_norm_legit.no_stats": batch_norm(3),
    "native_batch_norm_backward": batch_norm_backward,
}
