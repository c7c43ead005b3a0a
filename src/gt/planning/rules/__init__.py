"""The table of rules: for each operator how its calls may be sharded. Rows are made by few functions, grouped by idea.

A call that has no rule here is computed with whole operands on every rank. So a row that is missing costs speed, and one
that is wrong costs results: where in doubt, there is none. `python -m tests.oracle.sharding.rules` tries every row against
whole calls.
"""

from __future__ import annotations

from gt.planning.rule import Rule
from gt.planning.rules import (
    composites,
    convolutions,
    factories,
    indexing,
    lists,
    losses,
    matrices,
    normalisation,
    pointwise,
    pooling,
    products,
    reductions,
    shapes,
)
from gt.planning.rules.labelling import fits
from gt.planning.rules.reading import Row, Table
from gt.planning.rules.writing import as_if_made_anew, written
from gt.wire import instructions as wire

TABLE: Table = {
    **pointwise.TABLE,
    **reductions.TABLE,
    **products.TABLE,
    **shapes.TABLE,
    **indexing.TABLE,
    **normalisation.TABLE,
    **losses.TABLE,
    **convolutions.TABLE,
    **pooling.TABLE,
    **composites.TABLE,
    **lists.TABLE,
    **factories.TABLE,
    **matrices.TABLE,
}


def find(define: wire.Define) -> Rule | None:
    """The rule of a call; None if it has none. Results are numbered as in `Define.outs`.

    A composite's handle is in no group: it belongs to whoever plans its backward.
    """
    row = _row(define.op.removeprefix("aten::"))
    if row is None:
        return None
    found = row(as_if_made_anew(define))
    settled = None if found is None else written(found, define)
    return settled if settled is not None and fits(settled, define) else None


def _row(name: str) -> Row | None:
    """The row of an overload, else of its operator; of an operator in place, that of the one that makes its result anew."""
    base, _, overload = name.partition(".")
    names = [base]
    if base.endswith("_") and not base.endswith("__"):
        names.append(base[:-1])
    for known in names:
        row = TABLE.get(f"{known}.{overload}") if overload else None
        row = row or TABLE.get(known)
        if row is not None:
            return row
    return None
