"""Operators that reduce dims (sums, norms, extremes) or work along one dim (sorting, cumulative sums, softmax).

A dim that is summed may be sharded: the result is a Partial then. Every other dim may be sharded where the call keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gt.placement.digit import Partial
from gt.planning.rule import Labels, Rule
from gt.planning.rules import labelling
from gt.planning.rules.pointwise import LINEAR, kinds_of
from gt.planning.rules.reading import Row, Table, argument, dim, dims, floating, operands_of
from gt.wire import instructions as wire


@dataclass(frozen=True)
class Reduction:
    """Where a reduction's arguments are: the positions of `dim` and `keepdim` (-1: by name only), and the default `dim`."""

    dims_at: int = 1
    keep_at: int = 2
    default: wire.Arg = None
    partial: Partial | None = None

    def __call__(self, define: wire.Define) -> Rule | None:
        """A row."""
        size = define.ins[0].size
        reduced = dims(argument(define, self.dims_at, "dim", self.default), len(size))
        if reduced is None or operands_of(define.args[1:]):
            return None
        kept = argument(define, self.keep_at, "keepdim", False) is True
        out: Labels = tuple(None if k in reduced else k for k in range(len(size)) if kept or k not in reduced)
        outs = {o: out for o, g in enumerate(define.outs) if g is not None}
        ins: dict[int, Labels] = {0: labelling.positions(size)}
        if self.partial is None:
            return labelling.rule(ins, outs, reduced)
        sums = {o: frozenset(reduced) for o in outs}
        return labelling.rule(ins, outs, sums=sums, partial=self.partial, passes=self._passes(define))

    def _passes(self, define: wire.Define) -> frozenset[Partial]:
        """Sums of sums and norms of norms, where nothing is rounded or widened between."""
        made = define.outs[0]
        if made is None or made.dtype != define.ins[0].dtype:
            return frozenset()
        return kinds_of(made.dtype) & (frozenset({Partial.NORM}) if self.partial is Partial.NORM else LINEAR)


def counted(define: wire.Define) -> Rule | None:
    """`count_nonzero` and `nansum`: parts add up, but what they do to an element is not linear."""
    found = Reduction(partial=Partial.SUM)(define)
    return None if found is None else replace(found, groups=(replace(found.groups[0], passes=frozenset()),))


def largest(define: wire.Define) -> Rule | None:
    """`amax`: ranks that have parts of the dims find the largest of what each has found."""
    found = Reduction()(define)
    if found is None or define.ins[0].dtype == "bool":
        return found
    (group,) = found.groups
    reduced = labelling.labels_in(group.ins.values()) - group.may_shard
    return replace(found, groups=(replace(group, may_shard=group.may_shard | reduced),), lowering="largest", lowered=reduced)


def largest_of_all(define: wire.Define) -> Rule | None:
    """`max` of one tensor, which is `amax` of all its dims."""
    return largest(define) if len(define.ins) == 1 else None


def norm(define: wire.Define) -> Rule | None:
    """The norm of order 2 may be a Partial; of other orders only dims that are not reduced are sharded."""
    order = argument(define, 1, "ord", 2)
    real = floating(define.ins[0].dtype)
    if isinstance(order, wire.Number) or not define.outs:
        return None
    squares = order is None or (type(order) in (int, float) and order == 2)
    return Reduction(2, 3, partial=Partial.NORM if squares and real else None)(define)


def along(position: int, default: wire.Arg = None, name: str = "dim") -> Row:
    """A row of an operator that works along one dim (or several), each line by itself. All operands have the same dims."""

    def row(define: wire.Define) -> Rule | None:
        size = define.ins[0].size
        along_dims = dims(argument(define, position, name, default), len(size))
        if along_dims is None:
            return None
        labels = labelling.positions(size, along_dims)
        outs = {o: labels for o, g in enumerate(define.outs) if g is not None}
        return labelling.rule(dict.fromkeys(range(len(define.ins)), labels), outs)

    return row


def linear_along(position: int) -> Row:
    """As `along`, of an operator that is linear."""
    plain = along(position)

    def row(define: wire.Define) -> Rule | None:
        found = plain(define)
        kinds = {g.dtype for g in (*define.ins, *define.outs) if g is not None}
        if found is None or len(kinds) != 1:
            return found
        return replace(found, groups=(replace(found.groups[0], passes=LINEAR & kinds_of(*kinds)),))

    return row


def softmax(position: int, lowering: str) -> Row:
    """A row of a softmax or its backward, whose last dim may be sharded by a lowering."""
    plain = along(position)

    def row(define: wire.Define) -> Rule | None:
        found, size = plain(define), define.ins[0].size
        if found is None or dim(argument(define, position, "dim"), len(size)) != len(size) - 1:
            return found
        labels, last = labelling.positions(size), len(size) - 1
        whole = labelling.rule(dict.fromkeys(range(len(define.ins)), labels), {0: labels})
        return replace(whole, lowering=lowering, lowered=frozenset({last}))

    return row


def last_dims(count: int) -> Row:
    """A row of an operator that works on the last `count` dims of its first operand, each matrix (image, line) by itself."""

    def row(define: wire.Define) -> Rule | None:
        size = define.ins[0].size
        labels = labelling.positions(size, range(max(len(size) - count, 0), len(size)))
        return labelling.rule({0: labels}, {0: labels})

    return row


_SUM, _AVERAGE, _PLAIN = Reduction(partial=Partial.SUM), Reduction(partial=Partial.AVERAGE), Reduction()
TABLE: Table = {
    "sum": _SUM,
    "nansum": counted,
    "count_nonzero": counted,
    "mean": _AVERAGE,
    "linalg_vector_norm": norm,
    "norm": norm,
    "amax": largest,
    "max": largest_of_all,
    **dict.fromkeys(("amin", "argmax", "argmin", "aminmax", "logsumexp", "max.dim", "min.dim", "prod"), _PLAIN),
    **dict.fromkeys(("all", "any", "median", "nanmedian"), _PLAIN),
    **dict.fromkeys(("std", "std_mean", "var", "var_mean"), Reduction(keep_at=-1)),
    "mode": Reduction(default=-1),
    "kthvalue": Reduction(2, 3, default=-1),
    **dict.fromkeys(("cummax", "cummin", "cumprod", "logcumsumexp", "_logcumsumexp", "_safe_softmax"), along(1)),
    "cumsum": linear_along(1),
    "sort": along(1, -1),
    "sort.stable": along(-1, -1),
    "topk": along(2, -1),
    "glu": along(1, -1),
    "glu_backward": along(2),
    "linalg_cross": along(-1, -1),
    "_softmax": softmax(1, "softmax"),
    "_log_softmax": softmax(1, "log_softmax"),
    "_softmax_backward_data": softmax(2, "softmax_backward"),
    "_log_softmax_backward_data": softmax(2, "log_softmax_backward"),
}
