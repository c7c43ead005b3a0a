"""A rule tried on a call by brute force: operands cut, the local call run for each rank, the results put together.

The result must be that of the whole call: equal for integers, up to rounding for other numbers.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import torch

from gt.placement.digit import Partial, ShardedDim, View, part, row_major
from gt.planning.rule import Label, LabelGroup, Labels, Rule
from gt.wire import instructions as wire
from gt.worker.calls.prepared import PreparedCall
from gt.worker.operators import facts
from tests.oracle.sharding.bench import Bench, Ran
from tests.oracle.sharding.parts import combined, cut, difference, join, split
from tests.oracle.sharding.recorded import Call

RANKS = (2, 3, 5)


class Axis(NamedTuple):
    """A label of a group that is sharded over `count` ranks by the digit of `weight`."""

    group: int
    label: Label
    weight: int
    count: int


class Trial:
    """One rule on one call."""

    def __init__(self, bench: Bench, call: Call, rule: Rule) -> None:
        self.bench, self.call, self.rule = bench, call, rule
        self.call_whole = bench.prepare(call.define)
        self.whole = bench.run(self.call_whole, call.operands, call.numbers)
        """What one worker makes."""
        self.compared = not facts.allocates(call.define.op)

    def choices(self) -> Iterator[Axis]:
        """Every label of every group with every digit that it may be sharded by."""
        for number, group in enumerate(self.rule.groups):
            for label in sorted(group.may_shard - self.rule.lowered, key=str):
                for count in RANKS:
                    for weight in _weights(self._sizes(group, label), count, label in group.contiguous):
                        yield Axis(number, label, weight, count)

    def _sizes(self, group: LabelGroup, label: Label) -> set[int]:
        define = self.call.define
        found = [(labels, define.ins[i].size) for i, labels in group.ins.items()]
        found += [(labels, g.size) for o, labels in group.outs.items() if (g := define.outs[o]) is not None]
        return {size[labels.index(label)] for labels, size in found if label in labels}

    def writes_what_it_says(self) -> None:
        """Raises AssertionError if the call changes an operand that its rule does not name as written."""
        written = {i for group in self.rule.groups for i in group.written}
        for i, before in enumerate(self.call.operands):
            assert i in written or not difference(before, self.whole.operands[i]), f"operand {i} is written"

    def sharded(self, axes: Sequence[Axis]) -> None:
        """Raises AssertionError if the results of local calls, put together, are not those of the whole call."""
        ranks = list(itertools.product(*(range(axis.count) for axis in axes)))
        local = self._local(axes)
        ran = {rank: self._run(local, axes, rank) for rank in ranks}
        for number, group in enumerate(self.rule.groups):
            for o, labels in group.outs.items():
                found = {rank: r.outs[o] for rank, r in ran.items()}
                self._compare(f"result {o}", self.whole.outs[o], found, axes, number, labels, group.sums.get(o, frozenset()))
            for i in group.written:
                found = {rank: r.operands[i] for rank, r in ran.items()}
                added = group.once.get(i, frozenset())
                self._compare(f"operand {i}", self.whole.operands[i], found, axes, number, group.ins[i], added)

    def _compare(
        self,
        what: str,
        whole: torch.Tensor,
        found: dict[tuple[int, ...], torch.Tensor],
        axes: Sequence[Axis],
        number: int,
        labels: Labels,
        summed: frozenset[Label],
    ) -> None:
        sizes, added = list(whole.shape), list[torch.Tensor]()
        for position in reversed(range(len(axes))):
            group, label, weight, count = axes[position]
            joined: dict[tuple[int, ...], torch.Tensor] = {}
            for rest in {rank[:position] for rank in found}:
                parts = [found[*rest, rank] for rank in range(count)]
                if group == number and label in labels:
                    dim = labels.index(label)
                    joined[rest] = join(parts, dim, weight, sizes[dim])
                elif group == number and label in summed:
                    joined[rest] = combined(parts, self.rule.groups[number].partial)
                    added += parts
                else:
                    for other in parts[1:]:
                        self._close(f"{what} of two ranks", parts[0], other)
                    joined[rest] = parts[0]
            found = joined
        self._close(what, whole, found[()], added)

    def _close(self, what: str, expected: torch.Tensor, got: torch.Tensor, summed: Sequence[torch.Tensor] = ()) -> None:
        assert (expected.shape, expected.dtype) == (got.shape, got.dtype), f"{what}: {got.shape}, expected {expected.shape}"
        if self.compared and (apart := difference(expected, got, summed)):
            raise AssertionError(f"{what} differs by {apart:.2g}")

    def _run(self, local: PreparedCall, axes: Sequence[Axis], rank: tuple[int, ...]) -> Ran:
        operands = [self._part(i, elements, axes, rank) for i, elements in enumerate(self.call.operands)]
        return self.bench.run(local, operands, self.call.numbers)

    def _local(self, axes: Sequence[Axis]) -> PreparedCall:
        """The call that every rank runs."""
        define = self.call.define
        ins: dict[int, wire.Geometry] = {}
        outs: dict[int, wire.Geometry] = {}
        for number, group in enumerate(self.rule.groups):
            own = [axis for axis in axes if axis.group == number]
            ins.update({i: _local(define.ins[i], labels, own) for i, labels in group.ins.items()})
            outs.update({o: _local(g, labels, own) for o, labels in group.outs.items() if (g := define.outs[o]) is not None})
        return self.bench.prepare(self._local_call(ins, outs))

    def _local_call(self, ins: Mapping[int, wire.Geometry], outs: Mapping[int, wire.Geometry]) -> wire.Define:
        define = self.call.define
        args, kwargs = list(define.args), dict(define.kwargs)
        if self.rule.localise is not None:
            args, kwargs = self.rule.localise(args, kwargs, ins, outs)
        made = [outs.get(o) for o in range(len(define.outs))]
        given = [ins[i] for i in range(len(define.ins))]
        return msgspec.structs.replace(define, args=args, kwargs=kwargs, ins=given, outs=made)

    def _part(self, index: int, elements: torch.Tensor, axes: Sequence[Axis], rank: tuple[int, ...]) -> torch.Tensor:
        for axis, place in zip(axes, rank, strict=True):
            group = self.rule.groups[axis.group]
            labels = group.ins.get(index, ())
            if axis.label in labels:
                elements = cut(elements, labels.index(axis.label), axis.weight, axis.count, place)
            if place and axis.label in group.once.get(index, ()):
                elements = torch.zeros_like(elements)
        return elements

    def passed(self, number: int, kind: Partial, together: frozenset[int]) -> None:
        """Raises AssertionError if a Partial of this kind does not pass through these operands of a group."""
        group, count = self.rule.groups[number], 2
        given = [e.abs() if kind is Partial.NORM and i in group.ins else e for i, e in enumerate(self.call.operands)]
        whole = self.bench.run(self.call_whole, given, self.call.numbers)
        parts = {i: split(given[i], kind, count) for i in together}
        ran = [
            self.bench.run(
                self.call_whole, [parts[i][rank] if i in parts else e for i, e in enumerate(given)], self.call.numbers
            )
            for rank in range(count)
        ]
        given_parts = [p for i in parts for p in parts[i]]
        for o in group.outs:
            self._close(f"{kind} result {o}", whole.outs[o], combined([r.outs[o] for r in ran], kind), given_parts)
        for i in group.written:
            self._close(f"{kind} operand {i}", whole.operands[i], combined([r.operands[i] for r in ran], kind), given_parts)


def _weights(sizes: set[int], count: int, contiguous: bool) -> list[int]:
    size = math.gcd(*sizes)
    if size % count or not size:
        return []
    runs = size // count
    return [runs] if contiguous else [w for w in range(1, runs + 1) if runs % w == 0]


def _local(geometry: wire.Geometry, labels: Labels, own: Sequence[Axis]) -> wire.Geometry:
    """A rank's geometry: as the digits leave it, else contiguous."""
    shards = [(ShardedDim(labels.index(a.label), a.weight), a.count) for a in own if a.label in labels]
    if not shards:
        return geometry
    view = View(geometry.size, geometry.stride, geometry.offset)
    placed = tuple(s.weight * view.stride[s.dim] for s, _ in shards)
    found = part(view, placed, tuple(n for _, n in shards)) if all(placed) else None
    if isinstance(found, tuple) and isinstance(found[0], View) and found[1] == tuple(s for s, _ in shards):
        size, stride, offset = found[0]
    else:
        sizes = list(geometry.size)
        for shard, count in shards:
            sizes[shard.dim] //= count
        size, stride, offset = tuple(sizes), row_major(tuple(sizes)), 0
    return msgspec.structs.replace(geometry, size=size, stride=stride, offset=offset)


@dataclass
class Report:
    """What the trials of one call showed."""

    tried: int = 0
    passed_on: int = 0
    wrong: tuple[str, ...] = ()


def try_rule(bench: Bench, call: Call, rule: Rule, rng: random.Random, limit: int | None = None) -> Report:
    """Try a rule on a call: every single label and digit (at most `limit`, drawn at random), and pairs of labels."""
    report = Report()
    if call.define.draws and rule.lowered:
        return report
    trial = Trial(bench, call, rule)
    _note(report, call, "whole", trial.writes_what_it_says)
    choices = list(trial.choices())
    single = [(c,) for c in choices]
    pairs = [(a, b) for a, b in itertools.combinations(choices, 2) if (a.group, a.label) != (b.group, b.label)]
    chosen: list[tuple[Axis, ...]] = single if limit is None else rng.sample(single, min(limit, len(single)))
    chosen += rng.sample(pairs, min(len(pairs), 4 if limit is None else 1))
    for axes in chosen:
        report.tried += 1
        _note(report, call, f"{axes}", lambda axes=axes: trial.sharded(axes))
    for number, group in enumerate(rule.groups):
        cases = itertools.product(group.passes, group.linear or (frozenset(group.ins),)) if number < 2 else ()
        for kind, together in cases:
            if group.written <= together:
                report.passed_on += 1
                _note(report, call, f"{kind}", functools.partial(trial.passed, number, kind, together))
    return report


def _note(report: Report, call: Call, what: str, run: Callable[[], None]) -> None:
    try:
        run()
    except Exception as error:
        text = f"{call.define.op} {what}: {type(error).__name__}: {error} | {call.define.args} {call.define.kwargs}"
        report.wrong += (f"{text} {[g.size for g in call.define.ins]}",)
