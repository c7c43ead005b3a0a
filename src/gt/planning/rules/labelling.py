"""Making rules: labels by position, groups of them, and the check that a rule fits its call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from gt.planning.rule import Label, LabelGroup, Labels, Rule
from gt.wire import instructions as wire


class Runs(NamedTuple):
    """The label of a dim that holds one or several runs of equal length, as that of a `cat` of equal parts.

    A digit that divides the run is the same digit of all of them, however many they are.
    """

    dim: int


def positions(size: tuple[int, ...], without: Iterable[int] = ()) -> Labels:
    """A label for each dim, but for those of `without`."""
    dropped = set(without)
    return tuple(None if k in dropped else k for k in range(len(size)))


def from_the_right(size: tuple[int, ...], shape: tuple[int, ...]) -> Labels:
    """The labels of a tensor that is broadcast to `shape`: positions counted from the last dim."""
    first = len(shape) - len(size)
    return tuple(k - len(size) if first + k >= 0 and n == shape[first + k] else None for k, n in enumerate(size))


def where_equal(labels: Labels, sizes: tuple[int, ...], other: tuple[int, ...]) -> Labels:
    """The labels of dims whose sizes are equal in both."""
    return tuple(label if n == m else None for label, n, m in zip(labels, sizes, other, strict=True))


def labels_in(several: Iterable[Labels]) -> frozenset[Label]:
    """Every label among them."""
    return frozenset(label for labels in several for label in labels if label is not None)


def group(
    ins: Mapping[int, Labels], outs: Mapping[int, Labels], unsharded: Iterable[Label] = (), **facts: Any
) -> LabelGroup:
    """A group whose labels may all be sharded, but for those of `unsharded`."""
    may_shard = labels_in((*ins.values(), *outs.values())) - frozenset(unsharded)
    return LabelGroup(ins, outs, may_shard, **facts)


def rule(ins: Mapping[int, Labels], outs: Mapping[int, Labels], unsharded: Iterable[Label] = (), **facts: Any) -> Rule:
    """A rule of one group (see `group`)."""
    return Rule((group(ins, outs, unsharded, **facts),))


Results: TypeAlias = list[tuple[Labels, frozenset[Label]]]
"""The results that a backward pass may make: the labels of each, and those that it sums over."""


def masked(ins: Mapping[int, Labels], results: Results, mask: wire.Arg, unsharded: Iterable[Label] = ()) -> Rule | None:
    """The rule of a backward pass that makes only the results which the mask asks for."""
    if not isinstance(mask, list) or len(mask) != len(results):
        return None
    made = [found for found, wanted in zip(results, mask, strict=True) if wanted]
    outs = {o: labels for o, (labels, _) in enumerate(made)}
    return rule(ins, outs, unsharded, sums={o: summed for o, (_, summed) in enumerate(made)})


def alone(define: wire.Define, indices: Iterable[int]) -> tuple[LabelGroup, ...]:
    """A group of operands that every rank needs whole, whatever the groups beside it choose; none if there are none."""
    ins: dict[int, Labels] = {i: (None,) * len(define.ins[i].size) for i in indices}
    return (LabelGroup(ins, {}, frozenset()),) if ins else ()


def fits(found: Rule, define: wire.Define) -> bool:
    """Whether a rule applies to this call.

    Each operand and each result (but a handle) must be in one group, with a label for each of its dims, and a label must
    have one size wherever it is.
    """
    has_handle = bool(define.requires_grad and define.grad_mode)
    results = [o for o, g in enumerate(define.outs) if g is not None and not (has_handle and o == len(define.outs) - 1)]
    ins = sorted(i for g in found.groups for i in g.ins)
    outs = sorted(o for g in found.groups for o in g.outs)
    if ins != list(range(len(define.ins))) or outs != results:
        return False
    return all(_consistent(g, define) for g in found.groups)


def _consistent(found: LabelGroup, define: wire.Define) -> bool:
    sizes: dict[Label, int] = {}
    labelled = [(labels, define.ins[i].size) for i, labels in found.ins.items()]
    labelled += [(labels, geometry.size) for o, labels in found.outs.items() if (geometry := define.outs[o]) is not None]
    for labels, size in labelled:
        if len(labels) != len(size):
            return False
        for label, n in zip(labels, size, strict=True):
            if label is not None and not isinstance(label, Runs) and sizes.setdefault(label, n) != n:
                return False
    return found.may_shard <= labels_in(labels for labels, _ in labelled)
