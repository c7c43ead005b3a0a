"""Products of matrices and vectors, as in einsum: a label that the result lacks is summed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gt.placement.digit import Partial
from gt.planning.rule import Label, Labels, Rule
from gt.planning.rules import labelling
from gt.planning.rules.reading import Row, Table, argument, floating
from gt.wire import instructions as wire

SUMS = frozenset({Partial.SUM})
IN_SUM_AND_FACTOR = (frozenset({0, 1}), frozenset({0, 2}))
"""`a + b @ c` is linear in `a` and `b` together, and in `a` and `c`."""


def product(terms: str, result: str) -> Row:
    """A row of a product such as `mk,kn` -> `mn`, whose operands are its first arguments."""
    letters = [tuple(term) for term in terms.split(",")]

    def row(define: wire.Define) -> Rule | None:
        return _contraction(dict(enumerate(letters)), tuple(result))

    return row


def product_added(terms: str, result: str) -> Row:
    """A row of a product that is added to its first operand, which is broadcast; one rank adds that to a partial sum.

    In place, a sum that is a Partial stays one, also where the product is not.
    """
    letters = [tuple(term) for term in terms.split(",")]

    def row(define: wire.Define) -> Rule | None:
        factors: dict[int, Labels] = dict(enumerate(letters, 1))
        if len(define.ins) < 3 or any(len(define.ins[i].size) != len(labels) for i, labels in factors.items()):
            return None
        sizes = {x: n for i, labels in factors.items() for x, n in zip(labels, define.ins[i].size, strict=True)}
        added = _broadcast(define.ins[0].size, tuple(result), sizes)
        if added is None:
            return None
        sums_up: dict[str, Any] = {"passes": SUMS, "linear": IN_SUM_AND_FACTOR} if define.writes and _floats(define) else {}
        return _contraction({0: added, **factors}, tuple(result), added=0, **sums_up)

    return row


def _broadcast(size: tuple[int, ...], result: Labels, sizes: Mapping[Label, int]) -> Labels | None:
    """The labels of a tensor that is broadcast to the result."""
    first = len(result) - len(size)
    if first < 0:
        return None
    return tuple(
        label if label is not None and n == sizes[label] else None for label, n in zip(result[first:], size, strict=True)
    )


def _floats(define: wire.Define) -> bool:
    """Whether all numbers are floating-point numbers of one dtype."""
    kinds = {g.dtype for g in define.ins}
    return len(kinds) == 1 and all(map(floating, kinds))


def _contraction(ins: Mapping[int, Labels], result: Labels, added: int | None = None, **facts: Any) -> Rule:
    summed = labelling.labels_in(ins.values()) - labelling.labels_in([result])
    once = {} if added is None else {added: summed}
    return labelling.rule(ins, {0: result}, sums={0: summed}, once=once, **facts)


def linear(define: wire.Define) -> Rule | None:
    """`linear(input [..., i], weight [o, i], bias [o])`."""
    rows: Labels = tuple(("row", k) for k in range(len(define.ins[0].size) - 1))
    terms: list[Labels] = [(*rows, "i"), ("o", "i"), ("o",)]
    added = 2 if len(define.ins) == 3 else None
    return _contraction(dict(enumerate(terms[: len(define.ins)])), (*rows, "o"), added)


def linear_backward(define: wire.Define) -> Rule | None:
    """`linear_backward(input [..., i], grad [..., o], weight [o, i], mask)`: the gradients of input, weight and bias."""
    rows: Labels = tuple(("row", k) for k in range(len(define.ins[0].size) - 1))
    mask = argument(define, 3, "output_mask")
    if not rows:
        return None
    summed = labelling.labels_in([rows])
    every: labelling.Results = [
        ((*rows, "i"), frozenset({"o"})),
        (("o", "i"), summed),
        (("o",), summed),
    ]
    ins: dict[int, Labels] = {0: (*rows, "i"), 1: (*rows, "o"), 2: ("o", "i")}
    return labelling.masked(ins, every, mask)


TABLE: Table = {
    "mm": product("mk,kn", "mn"),
    "bmm": product("bmk,bkn", "bmn"),
    "mv": product("mk,k", "m"),
    "dot": product("k,k", ""),
    "vdot": product("k,k", ""),
    "_int_mm": product("mk,kn", "mn"),
    "addmm": product_added("mk,kn", "mn"),
    "addbmm": product_added("bmk,bkn", "mn"),
    "baddbmm": product_added("bmk,bkn", "bmn"),
    "addmv": product_added("mk,k", "m"),
    "addr": product_added("m,n", "mn"),
    "linear": linear,
    "linear_backward": linear_backward,
}
