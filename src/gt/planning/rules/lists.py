"""Operators over lists of tensors: the n-th entries of the lists make a group, which is placed by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gt.placement.digit import Partial
from gt.planning.rule import LabelGroup, Labels, Rule
from gt.planning.rules import labelling
from gt.planning.rules.pointwise import LINEAR, NOTHING, kinds_of
from gt.planning.rules.reading import Row, Table, argument, floating, operands_in, short_name
from gt.wire import instructions as wire


def _columns(define: wire.Define) -> list[tuple[int, ...]] | None:
    """The n-th entries of all lists of operands, for each n. None if a list has another length, or numbers among them."""
    lists = [operands_in(a) for a in (*define.args, *define.kwargs.values()) if isinstance(a, list) and operands_in(a)]
    given = [a for a in (*define.args, *define.kwargs.values()) if isinstance(a, list) and operands_in(a)]
    lengths = {len(a) for a in given} | {len(found) for found in lists}
    return list(zip(*lists, strict=True)) if len(lengths) == 1 else None


def _alone(define: wire.Define) -> list[int]:
    """Operands outside lists, such as a learning rate."""
    return [a.index for a in (*define.args, *define.kwargs.values()) if isinstance(a, wire.In)]


def foreach(define: wire.Define) -> Rule | None:
    """Pointwise within a group, with broadcasting to the size of the result."""
    columns = _columns(define)
    if columns is None or len(define.outs) != len(columns):
        return None
    passes = _passes(define)
    groups: list[LabelGroup] = []
    for n, (column, made) in enumerate(zip(columns, define.outs, strict=True)):
        if made is None:
            return None
        shape = made.size
        if any(len(define.ins[i].size) > len(shape) for i in column):
            return None
        ins = {i: labelling.from_the_right(define.ins[i].size, shape) for i in column}
        one_dtype = len({made.dtype, *(define.ins[i].dtype for i in column)}) == 1
        labels = labelling.from_the_right(shape, shape)
        groups.append(labelling.group(ins, {n: labels}, passes=passes & kinds_of(made.dtype) if one_dtype else NOTHING))
    return Rule((*groups, *labelling.alone(define, _alone(define))))


def _passes(define: wire.Define) -> frozenset[Partial]:
    """Sums of the n-th entries of two lists, and lists scaled by numbers, are linear."""
    name = short_name(define).strip("_")
    args, lists = define.args[:2], [bool(operands_in(a)) for a in define.args]
    if name in ("foreach_add", "foreach_sub"):
        return LINEAR if len(args) == 2 and all(isinstance(a, list) and operands_in(a) for a in args) else NOTHING
    if name in ("foreach_mul", "foreach_div"):
        scaled = len(args) == 2 and not (isinstance(args[1], list) and operands_in(args[1]))
        return LINEAR if scaled else NOTHING
    return LINEAR if name == "foreach_neg" and lists == [True] else NOTHING


def foreach_norm(define: wire.Define) -> Rule | None:
    """The norm of order 2 of each entry may be a Partial; other orders, and other dtypes, have no rule."""
    order = argument(define, 1, "ord", 2)
    columns = _columns(define)
    if columns is None or type(order) not in (int, float) or order != 2:
        return None
    groups: list[LabelGroup] = []
    for n, (index,) in enumerate(columns):
        given = define.ins[index]
        if not floating(given.dtype):
            return None
        labels = labelling.positions(given.size)
        sums = {n: labelling.labels_in([labels])}
        groups.append(labelling.group({index: labels}, {n: ()}, sums=sums, partial=Partial.NORM))
    return Rule(tuple(groups))


def fused(states_at: Sequence[int]) -> Row:
    """A row of a fused optimizer: each parameter with its gradient and state. `states_at`: lists of counters of steps."""

    def row(define: wire.Define) -> Rule | None:
        lists = [operands_in(a) for a in define.args if isinstance(a, list)]
        counters = {i for at in states_at if at < len(define.args) for i in operands_in(define.args[at])}
        full = [found for found in lists if found]
        if not full or any(len(found) != len(full[0]) for found in full):
            return None
        groups = [_parameter(define, column, counters) for column in zip(*full, strict=True)]
        return Rule((*groups, *labelling.alone(define, _alone(define))))

    return row


def _parameter(define: wire.Define, column: Sequence[int], counters: set[int]) -> LabelGroup:
    labels: Labels = labelling.positions(define.ins[column[0]].size)
    ins: dict[int, Any] = {i: (None,) * len(define.ins[i].size) if i in counters else labels for i in column}
    return labelling.group(ins, {})


_FOREACH = """
    abs acos add addcdiv addcmul asin atan ceil clamp_max clamp_min copy cos cosh div erf erfc exp expm1 floor frac lerp
    lgamma log log10 log1p log2 maximum minimum mul neg pow reciprocal round rsqrt sigmoid sign sin sinh sqrt sub tan tanh
    trunc zero
"""
TABLE: Table = {
    **{f"_foreach_{name}": foreach for name in _FOREACH.split()},
    "_foreach_norm": foreach_norm,
    "_fused_adam_": fused([5]),
    "_fused_adamw_": fused([5]),
    "_fused_sgd_": fused([]),
    "_fused_adagrad_": fused([3]),
}
