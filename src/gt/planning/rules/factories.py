"""Operators that make tensors like another, and those that draw random numbers into one."""

from __future__ import annotations

from dataclasses import replace

from gt.planning.geometry import is_dense
from gt.planning.rule import Labels, Rule
from gt.planning.rules import labelling
from gt.planning.rules.reading import Table, argument
from gt.wire import instructions as wire


def like(define: wire.Define) -> Rule:
    """The result has the dims of the operand, of which no element is read."""
    labels = labelling.positions(define.ins[0].size)
    return replace(labelling.rule({0: labels}, {0: labels}), reads=False)


def new(define: wire.Define) -> Rule | None:
    """The result has a size of its own, and every rank makes it. No element of the operand is read; it may be anywhere."""
    made = define.outs[0]
    if made is None:
        return None
    labels = labelling.positions(define.ins[0].size)
    return replace(labelling.rule({0: labels}, {0: (None,) * len(made.size)}), reads=False)


def draw_like(define: wire.Define) -> Rule | None:
    """Every rank draws the whole, so that the numbers are those of one worker, and keeps its part."""
    return _drawn(like(define)) if is_dense(define.ins[0]) else None


def draw_in_place(define: wire.Define) -> Rule | None:
    """As `draw_like`, into the operand itself."""
    labels: Labels = labelling.positions(define.ins[0].size)
    return _drawn(labelling.rule({0: labels}, {0: labels})) if len(define.ins) == 1 and is_dense(define.ins[0]) else None


def _drawn(found: Rule) -> Rule:
    return replace(found, lowering="draw", lowered=found.groups[0].may_shard)


def dropout(define: wire.Define) -> Rule | None:
    """`native_dropout(input, p, train)`: the result and its mask, drawn whole by every rank."""
    if argument(define, 2, "train", True) is False or not is_dense(define.ins[0]):
        return None
    labels = labelling.positions(define.ins[0].size)
    found = labelling.rule({0: labels}, {0: labels, 1: labels})
    return replace(found, lowering="dropout", lowered=found.groups[0].may_shard)


_DRAWS = ("bernoulli_.float", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_", "uniform_")
TABLE: Table = {
    **dict.fromkeys(("empty_like", "full_like", "ones_like", "zeros_like"), like),
    **dict.fromkeys(("new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros"), new),
    **dict.fromkeys(("rand_like", "randint_like", "randn_like"), draw_like),
    **dict.fromkeys(_DRAWS, draw_in_place),
    "native_dropout": dropout,
}
