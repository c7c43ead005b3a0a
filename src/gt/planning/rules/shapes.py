"""Operators that move elements: joining, padding, repeating, cutting out, turning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from gt.placement.digit import Partial
from gt.planning.rule import Arguments, Labels, Localise, Rule
from gt.planning.rules import labelling
from gt.planning.rules.labelling import Runs
from gt.planning.rules.pointwise import kinds_of
from gt.planning.rules.reading import Row, Table, argument, dim, dims, operands_in, result_size
from gt.wire import instructions as wire


def sized_by_result(position: int, result: int = 0) -> Localise:
    """The local call names the local size of its result where the call names the size."""

    def localise(
        args: list[wire.Arg],
        kwargs: dict[str, wire.Arg],
        ins: Mapping[int, wire.Geometry],
        outs: Mapping[int, wire.Geometry],
    ) -> Arguments:
        return [*args[:position], list(outs[result].size), *args[position + 1 :]], kwargs

    return localise


def cat(define: wire.Define) -> Rule | None:
    """The dim along which equal parts are joined may be sharded by a digit of the part: it stays the same digit."""
    size = result_size(define)
    joined = dim(argument(define, 1, "dim", 0), len(size))
    # an operand of one dim without elements is skipped, whatever the others are
    parts = {i: g.size for i, g in enumerate(define.ins) if i in operands_in(define.args[0])}
    full = {i: n for i, n in parts.items() if len(n) == len(size)}
    if joined is None or any(n != (0,) for i, n in parts.items() if i not in full):
        return None
    equal = len({n[joined] for n in full.values()}) == 1
    labels: Labels = tuple(k if k != joined else (Runs(k) if equal else None) for k in range(len(size)))
    ins: dict[int, Labels] = {i: labels if i in full else (None,) for i in parts}
    return labelling.rule(ins, {0: labels}, passes=_if_one_dtype(define))


def stack(define: wire.Define) -> Rule | None:
    """Joined along a dim that the operands do not have."""
    new = dim(argument(define, 1, "dim", 0), len(result_size(define)))
    parts = operands_in(define.args[0])
    if new is None or not parts:
        return None
    labels = labelling.positions(define.ins[parts[0]].size)
    made: Labels = (*labels[:new], None, *labels[new:])
    return labelling.rule(dict.fromkeys(parts, labels), {0: made}, passes=_if_one_dtype(define))


def _if_one_dtype(define: wire.Define) -> frozenset[Partial]:
    """What puts elements elsewhere, or zeros beside them, passes every Partial on."""
    kinds = {g.dtype for g in (*define.ins, *define.outs) if g is not None}
    return kinds_of(*kinds) if len(kinds) == 1 else frozenset()


def moving(find_dims: Callable[[wire.Define], frozenset[int] | None]) -> Row:
    """A row of an operator that moves elements along some dims: the others may be sharded."""

    def row(define: wire.Define) -> Rule | None:
        moved = find_dims(define)
        if moved is None:
            return None
        labels = labelling.positions(define.ins[0].size, moved)
        return labelling.rule({0: labels}, {0: labels}, passes=_if_one_dtype(define))

    return row


def named(position: int, all_if_empty: bool) -> Callable[[wire.Define], frozenset[int] | None]:
    """The dims that an argument names; an empty one means all, or none."""

    def find(define: wire.Define) -> frozenset[int] | None:
        value = argument(define, position, "dims", [])
        if value == [] and not all_if_empty:
            return frozenset()
        return dims(value, len(define.ins[0].size))

    return find


def last(count: int) -> Callable[[wire.Define], frozenset[int]]:
    """The last dims."""
    return lambda define: frozenset(range(max(len(define.ins[0].size) - count, 0), len(define.ins[0].size)))


def padded(define: wire.Define) -> frozenset[int] | None:
    """The dims that a padding changes: pairs of lengths, from the last dim on."""
    amounts = argument(define, 1, "pad")
    if not isinstance(amounts, list):
        return None
    count = len(define.ins[0].size)
    return frozenset(count - 1 - k // 2 for k, n in enumerate(amounts) if n != 0)


def constant_pad(define: wire.Define) -> Rule | None:
    """Zeros beside a Partial stay zeros; another number would be there once per rank."""
    found = moving(padded)(define)
    zeros = argument(define, 2, "value", 0) in (0, False) and not isinstance(argument(define, 2, "value", 0), wire.Number)
    return found if found is None or zeros else replace(found, groups=(replace(found.groups[0], passes=frozenset()),))


def repeat(define: wire.Define) -> Rule | None:
    """A dim that is repeated keeps a digit of it."""
    times = argument(define, 1, "repeats")
    size = define.ins[0].size
    if not isinstance(times, list) or len(times) < len(size) or 0 in times:
        return None
    new = len(times) - len(size)
    labels: Labels = tuple(Runs(k) for k in range(len(size)))
    return labelling.rule({0: labels}, {0: ((None,) * new + labels)}, passes=_if_one_dtype(define))


def put_back(position: int, drops: bool = False) -> Row:
    """A row of the backward of a slice (or, if it `drops` the dim, of a selection): the gradient among zeros."""

    def row(define: wire.Define) -> Rule | None:
        made = result_size(define)
        cut = dim(argument(define, position), len(made))
        if cut is None:
            return None
        labels = labelling.positions(made, [cut])
        given = (*labels[:cut], *labels[cut + 1 :]) if drops else labels
        found = labelling.rule({0: given}, {0: labels}, passes=_if_one_dtype(define))
        return replace(found, localise=sized_by_result(1))

    return row


def unfold_backward(define: wire.Define) -> Rule | None:
    """The gradient of windows along a dim, whose elements are the last dim of `grad`: each is added where it came from."""
    made = result_size(define)
    cut = dim(argument(define, 2), len(made))
    if cut is None:
        return None
    labels = labelling.positions(made, [cut])
    found = labelling.rule({0: (*labels, None)}, {0: labels}, passes=_if_one_dtype(define) - {Partial.NORM})
    return replace(found, localise=sized_by_result(1))


def diagonal_backward(define: wire.Define) -> Rule | None:
    """The gradient of a diagonal, which is the last dim of `grad`, among zeros."""
    made = result_size(define)
    both = [dim(argument(define, k, default=d), len(made)) for k, d in ((3, 0), (4, 1))]
    labels = labelling.positions(made, [d for d in both if d is not None])
    rest: Labels = tuple(k for k in range(len(made)) if k not in both)
    found = labelling.rule({0: (*rest, None)}, {0: labels}, passes=_if_one_dtype(define))
    return replace(found, localise=sized_by_result(1))


def diag_embed(define: wire.Define) -> Rule | None:
    """The last dim becomes the diagonal of two."""
    made = result_size(define)
    both = [dim(argument(define, k, default=d), len(made)) for k, d in ((2, -2), (3, -1))]
    rest = [k for k in range(len(made)) if k not in both]
    labels: Labels = tuple(rest.index(k) if k in rest else None for k in range(len(made)))
    return labelling.rule({0: (*range(len(rest)), None)}, {0: labels}, passes=_if_one_dtype(define))


TABLE: Table = {
    "cat": cat,
    "stack": stack,
    "flip": moving(named(1, all_if_empty=False)),
    "roll": moving(named(2, all_if_empty=True)),
    "rot90": moving(lambda define: dims(argument(define, 2, "dims", [0, 1]), len(define.ins[0].size))),
    "tril": moving(last(2)),
    "triu": moving(last(2)),
    "constant_pad_nd": constant_pad,
    "repeat": repeat,
    "slice_backward": put_back(2),
    "select_backward": put_back(2, drops=True),
    "diagonal_backward": diagonal_backward,
    "unfold_backward": unfold_backward,
    "diag_embed": diag_embed,
}
