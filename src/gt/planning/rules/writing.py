"""Calls that write operands: in place (`add_`) or into `out=`. Rows describe them as if the results were made anew."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from gt.planning.rule import NOTHING, Label, LabelGroup, Labels, Rule
from gt.planning.rules.labelling import labels_in
from gt.wire import instructions as wire


def as_if_made_anew(define: wire.Define) -> wire.Define:
    """The call as rows see it: where all that it makes is written to operands, these are its results."""
    if define.outs or not define.writes:
        return define
    return msgspec.structs.replace(define, outs=[define.ins[i] for i in define.writes])


def written(found: Rule, define: wire.Define) -> Rule | None:
    """The rule of the call itself, from that of the call as `as_if_made_anew` shows it.

    None where it does not fit: `out=` of another size, or a result that is not labelled as the operand that it overwrites.
    """
    if not define.writes:
        return found
    if define.outs:
        return replace(found, groups=tuple(replace(g, written=_among(g, define)) for g in found.groups))
    groups = [_in_place(g, define) for g in found.groups]
    if None in groups:
        return None
    settled = replace(found, groups=tuple(g for g in groups if g is not None))
    return _without_lowering(settled) if _has_out(define) and found.lowering else settled


def _among(found: LabelGroup, define: wire.Define) -> frozenset[int]:
    return frozenset(i for i in found.ins if i in define.writes)


def _has_out(define: wire.Define) -> bool:
    """Whether it is called with `out=`, under whatever name."""
    named = [value.index for value in define.kwargs.values() if isinstance(value, wire.In)]
    return any(i in define.writes for i in named)


def _in_place(found: LabelGroup, define: wire.Define) -> LabelGroup | None:
    """The group with its results as written operands. Such an operand is never a Partial, unless that passes through or the
    call adds to it."""
    ins: dict[int, Labels] = dict(found.ins)
    once: dict[int, frozenset[Label]] = {}
    unsharded: set[Label] = set()
    for result, labels in found.outs.items():
        index = define.writes[result]
        read = found.ins.get(index)
        if read is None and not _is_known(labels, found, define.ins[index]):
            return None
        if read is not None and read != labels:
            return None
        ins[index] = labels
        summed = found.sums.get(result, NOTHING)
        once[index] = NOTHING if _has_out(define) else summed & found.once.get(index, NOTHING)
        unsharded |= summed - once[index]
    passes = frozenset() if _has_out(define) else found.passes
    may_shard = found.may_shard - unsharded
    kept = replace(found, ins=ins, outs={}, sums={}, may_shard=may_shard, passes=passes, once=once)
    return replace(kept, written=_among(kept, define))


def _is_known(labels: Labels, found: LabelGroup, out: wire.Geometry) -> bool:
    """Whether the size of an `out=` follows from the operands, so that it is known not to be resized."""
    known = labels_in(found.ins.values())
    return all(label in known or n == 1 for label, n in zip(labels, out.size, strict=False))


def _without_lowering(found: Rule) -> Rule:
    groups = tuple(replace(g, may_shard=g.may_shard - found.lowered) for g in found.groups)
    return replace(found, groups=groups, lowering="", lowered=NOTHING)
