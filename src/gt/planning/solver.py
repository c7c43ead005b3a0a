"""Choosing, for a call and the states of its operands, what is sharded along each axis, and what that takes.

Axis by axis the cheapest of these is taken: a label that some operand is already sharded by, a Partial that passes through,
or everything replicated. The cost is the bytes that travel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from gt.placement.digit import OfStorage, OfView, Partial, Shard, Underivable, View, digits, part, row_major
from gt.placement.mesh import Mesh
from gt.planning import lowerings
from gt.planning.plan import (
    Choice,
    Conversion,
    CutBack,
    CutWritten,
    Digit,
    Gather,
    Lowered,
    Plan,
    Reduce,
    Scatter,
    TakeOnce,
    TakeSlice,
)
from gt.planning.rule import Group, Labels, Rule
from gt.planning.state import State, States
from gt.wire.instructions import Define, Geometry

ITEM_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "complex128": 16, "float32": 4, "int32": 4, "uint32": 4,
    "bfloat16": 2, "float16": 2, "int16": 2, "uint16": 2,
}  # fmt: skip
"""Bytes of an element by dtype; 1 for those that are not here."""
LOCAL_COST = 1e-6
"""The cost of copying a byte locally, against one that travels."""
REPLICATING_COST = 1e-3
"""What decides between two choices of equal cost: a sharded one is computed by less work."""
INFINITE = math.inf


def item_bytes(dtype: str) -> int:
    """Bytes of an element."""
    return ITEM_BYTES.get(dtype, 1)


def view_of(geometry: Geometry) -> View:
    """A geometry without its dtype."""
    return View(geometry.size, geometry.stride, geometry.offset)


@dataclass
class _Operand:
    """An operand of a call: its labels, where it is, and what a worker can see of it there."""

    index: int
    geometry: Geometry
    state: State
    labels: Labels
    written: bool
    read: bool
    """Whether its elements matter."""
    placed: list[Any]
    """Its placement without what has to be gathered in any case."""
    view: OfView


class Solver:
    """Plans calls on one mesh. `graphs`: what forward passes of composites chose, by call and choice."""

    def __init__(self, mesh: Mesh, states: States) -> None:
        self.mesh = mesh
        self.states = states
        self._graphs: dict[Any, tuple[Group, Choice]] = {}
        self.underivable: dict[str, str] = {}
        """Operators that had to gather a view, and why."""

    def solve(self, define: Define, operands: list[State], rule: Rule | None) -> Plan:
        """The plan of a call. Without a rule its operands are gathered and it is computed by every worker."""
        if rule is None and define.op == "gt::backward" and operands and operands[0].graph is not None:
            rule, fixed = self._backward_rule(define, operands[0])
        else:
            fixed = None
        known = rule or _unruled(define)
        solved = _Solved(define, operands, known)
        for group in known.groups:
            self._solve_group(solved, group, fixed)
        return self._plan(solved, rule is None)

    # -- one group ---------------------------------------------------------------------------------------------------------

    def _solve_group(self, solved: _Solved, group: Group, fixed: Choice | None) -> None:
        operands = [self._operand(solved, group, i) for i in group.ins if solved.operands[i].graph is None]
        for i in group.ins:
            if solved.operands[i].graph is not None:
                solved.local_ins[i] = solved.define.ins[i]
        choice = list(fixed) if fixed is not None else self._choices(group, operands)
        while (impossible := self._place_results(solved, group, tuple(choice))) is not None:
            choice[impossible] = None
        solved.choices.append(tuple(choice))
        passing = {axis: _passing(group, operands, axis) for axis, c in enumerate(choice) if isinstance(c, Partial)}
        solved.once = {axis: found.once for axis, found in passing.items() if found is not None}
        for operand in operands:
            self._bring(solved, group, operand, tuple(choice))
        self._cut_back(solved, group, operands, tuple(choice))

    def _operand(self, solved: _Solved, group: Group, index: int) -> _Operand:
        geometry, state, written = solved.define.ins[index], solved.operands[index], index in group.written
        computed = state.computed if state.computed is not None and not written and solved.rule.reads else state.placed
        placed: list[Any] = list(computed)
        view = view_of(geometry)
        if view.extent > state.elements or item_bytes(geometry.dtype) != item_bytes(state.dtype):
            placed = [p if isinstance(p, Partial) else None for p in placed]
        if geometry.dtype != state.dtype:
            placed = [None if isinstance(p, Partial) else p for p in placed]
        while isinstance(found := part(view, tuple(placed), self.mesh.sizes), Underivable):
            self.underivable[solved.define.op] = found.reason
            placed[found.axis] = None
        read = solved.rule.reads and index not in group.unread
        return _Operand(index, geometry, state, group.ins[index], written, read, placed, found[1])

    # -- choosing ----------------------------------------------------------------------------------------------------------

    def _choices(self, group: Group, operands: list[_Operand]) -> list[Digit | Partial | None]:
        chosen: list[Digit | Partial | None] = []
        for axis in range(len(self.mesh.sizes)):
            chosen.append(self._choose(group, operands, axis, chosen))
        return chosen

    def _choose(
        self, group: Group, operands: list[_Operand], axis: int, before: Sequence[Digit | Partial | None]
    ) -> Digit | Partial | None:
        passing = _passing(group, operands, axis)
        if passing is not None:
            return passing.kind
        found = dict.fromkeys(c for o in operands if (c := self._candidate(group, operands, o, axis)) is not None)
        candidates = [candidate for candidate in found if self._nests(candidate, axis, before)]
        best: Digit | None = None
        cost: float = self._cost(group, operands, None, axis) + REPLICATING_COST if candidates else 0.0
        for candidate in candidates:
            own = self._cost(group, operands, candidate, axis)
            if own < cost:
                best, cost = candidate, own
        return best

    def _candidate(self, group: Group, operands: list[_Operand], operand: _Operand, axis: int) -> Digit | None:
        """The digit by which an operand is sharded, if the call may be sharded so."""
        shard, count = operand.view[axis], self.mesh.sizes[axis]
        if not isinstance(shard, Shard):
            return None
        label = operand.labels[shard.dim]
        if label is None or label not in group.may_shard:
            return None
        period = shard.weight * count
        sizes = {o.geometry.size[d] for o in operands for d, other in enumerate(o.labels) if other == label}
        if any(size % period for size in sizes) or (label in group.contiguous and any(size != period for size in sizes)):
            return None
        return Digit(label, shard.weight)

    def _nests(self, candidate: Digit, axis: int, before: Sequence[Digit | Partial | None]) -> bool:
        """Whether a digit leaves those of the same label alone that the axes before this one have."""
        own = [(c.weight, a) for a, c in enumerate(before) if isinstance(c, Digit) and c.label == candidate.label]
        together = sorted([*own, (candidate.weight, axis)])
        return not any(upper % (lower * self.mesh.sizes[a]) for (lower, a), (upper, _) in itertools.pairwise(together))

    def _cost(self, group: Group, operands: list[_Operand], choice: Digit | None, axis: int) -> float:
        total, count = 0.0, self.mesh.sizes[axis]
        for operand in operands:
            need, have = _needed(operand.labels, choice), operand.view[axis]
            if _is_added(group, operand, choice):
                if have is group.partial:
                    continue
                if operand.written:
                    return INFINITE
            if have == need or not operand.read:
                continue
            if operand.written and need is not None and not _can_be_cut(operand, axis):
                return INFINITE  # a write goes to the storage, never to a copy
            g = operand.geometry
            held = math.prod(n for n, s in zip(g.size, g.stride, strict=True) if s) * item_bytes(g.dtype)
            travels = held * (count - 1) / count
            whole = isinstance(have, Partial) and not _can_be_scattered(operand, axis, choice)
            total += travels * (LOCAL_COST if have is None else 2 if whole else 1)
        return total

    # -- results -----------------------------------------------------------------------------------------------------------

    def _place_results(self, solved: _Solved, group: Group, choice: Choice) -> int | None:
        """Place the results; returns an axis whose choice they cannot have."""
        for index, labels in group.outs.items():
            geometry = solved.define.outs[index]
            assert geometry is not None
            placed: list[Any] = []
            for axis, chosen in enumerate(choice):
                found = self._place_result(group, index, labels, geometry, axis, chosen)
                if found is INFINITE:
                    return axis
                placed.append(found)
            seen = part(view_of(geometry), tuple(placed), self.mesh.sizes)
            if isinstance(seen, Underivable):
                return seen.axis
            solved.placed[index] = tuple(placed)
            solved.local_outs[index] = _replaced(geometry, seen[0])
        return None

    def _place_result(
        self, group: Group, index: int, labels: Labels, geometry: Geometry, axis: int, chosen: Digit | Partial | None
    ) -> Any:
        """A result's placement along an axis; INFINITE if it cannot have it."""
        if not isinstance(chosen, Digit):
            return chosen
        if chosen.label in labels:
            dim = labels.index(chosen.label)
            period = chosen.weight * self.mesh.sizes[axis]
            if geometry.size[dim] % period or view_of(geometry).extent != math.prod(geometry.size):
                return INFINITE
            return chosen.weight * geometry.stride[dim]
        return group.partial if chosen.label in group.sums.get(index, ()) else None

    # -- operands ----------------------------------------------------------------------------------------------------------

    def _bring(self, solved: _Solved, group: Group, operand: _Operand, choice: Choice) -> None:
        """The conversions that bring an operand where the choice needs it, and its local geometry."""
        at = self._gathered(solved, group, operand, choice)
        if operand.written:
            self._cut_written(solved, operand, choice, at)
        seen = part(view_of(operand.geometry), tuple(at), self.mesh.sizes)
        assert not isinstance(seen, Underivable), "the operand was brought where it can be seen"
        view = self._sliced(solved, operand, choice, *seen)
        for axis, chosen in enumerate(choice):
            added = _is_added(group, operand, chosen) and not isinstance(at[axis], Partial)
            if added or operand.index in solved.once.get(axis, ()):
                solved.conversions.append(TakeOnce(operand.index, axis))
        solved.local_ins[operand.index] = _replaced(operand.geometry, view)

    def _gathered(self, solved: _Solved, group: Group, operand: _Operand, choice: Choice) -> list[Any]:
        """Reduce and gather what the choice cannot use; returns the placement after that."""
        at: list[Any] = list(operand.state.placed)
        scattered: list[tuple[int, int, Partial]] = []
        for axis, placed in enumerate(at):
            passes = placed == choice[axis] or (_is_added(group, operand, choice[axis]) and placed is group.partial)
            passes = passes and operand.geometry.dtype == operand.state.dtype
            if not isinstance(placed, Partial) or passes or not operand.read:
                continue
            at[axis] = None
            if _can_be_scattered(operand, axis, choice[axis]):
                need = _needed(operand.labels, choice[axis])
                assert need is not None
                scattered.append((need.weight * operand.geometry.stride[need.dim], axis, placed))
            else:
                solved.reduces.setdefault(axis, []).append(operand.index)
        for weight, axis in digits(tuple(at)):
            keep = operand.placed[axis] == weight and operand.view[axis] == _needed(operand.labels, choice[axis])
            if not keep:
                solved.conversions.append(Gather(operand.index, axis, tuple(at), operand.written))
                at[axis] = None
        for weight, axis, kind in sorted(scattered, key=lambda s: -s[0]):
            solved.conversions.append(Scatter(operand.index, axis, tuple(at), kind, weight))
            at[axis] = weight
        return at

    def _cut_written(self, solved: _Solved, operand: _Operand, choice: Choice, at: list[Any]) -> None:
        for axis, chosen in enumerate(choice):
            need = _needed(operand.labels, chosen)
            if need is not None and at[axis] is None and _can_be_cut(operand, axis):
                at[axis] = need.weight * operand.geometry.stride[need.dim]
                solved.conversions.append(CutWritten(operand.index, axis, at[axis]))

    def _sliced(self, solved: _Solved, operand: _Operand, choice: Choice, view: View, placed: OfView) -> View:
        """Slice what is replicated and needed sharded; returns the local view after that."""
        chosen_digits = [(c.weight, axis, c) for axis, c in enumerate(choice) if isinstance(c, Digit)]
        for weight, axis, chosen in sorted(chosen_digits, key=lambda d: d[:2]):
            need = _needed(operand.labels, chosen)
            if need is None or placed[axis] == need:
                continue
            inner = math.prod(
                self.mesh.sizes[a] for w, a, c in chosen_digits if a != axis and c.label == chosen.label and w < weight
            )
            dim, count = need.dim, self.mesh.sizes[axis]
            size = (*view.size[:dim], view.size[dim] // count, *view.size[dim + 1 :])
            if view.stride[dim] == 0:
                view = View(size, view.stride, view.offset)
                continue
            if operand.read:
                seen = _replaced(operand.geometry, view)
                solved.conversions.append(TakeSlice(operand.index, axis, seen, dim, weight // inner))
            view = View(size, row_major(size), 0)
        return view

    # -- what is computed whole and cut back -------------------------------------------------------------------------------

    def _cut_back(self, solved: _Solved, group: Group, operands: list[_Operand], choice: Choice) -> None:
        """Results that are whole only because the call cannot be sharded as an operand is are cut as that operand was."""
        for axis, chosen in enumerate(choice):
            if chosen is not None:
                continue
            for operand in operands:
                shard = operand.view[axis]
                if isinstance(shard, Shard) and not operand.written and operand.labels[shard.dim] not in group.may_shard:
                    self._cut_results_like(solved, group, operand, axis, shard)
                    break

    def _cut_results_like(self, solved: _Solved, group: Group, operand: _Operand, axis: int, shard: Shard) -> None:
        for index, labels in group.outs.items():
            geometry = solved.define.outs[index]
            if geometry is None or view_of(geometry).extent != math.prod(geometry.size):
                continue
            label = operand.labels[shard.dim]
            if label is not None and label in labels:
                dim = labels.index(label)
            elif label is None and geometry.size == operand.geometry.size:
                dim = shard.dim
            else:
                continue
            if geometry.size[dim] % (shard.weight * self.mesh.sizes[axis]) or not geometry.stride[dim]:
                continue
            cut = CutBack(index, axis, shard.weight * geometry.stride[dim])
            placed = list(solved.placed[index])
            for one in (*(c for c in solved.cuts if c.result == index), cut):
                placed[one.axis] = one.weight
            if not isinstance(part(view_of(geometry), tuple(placed), self.mesh.sizes), Underivable):
                solved.cuts.append(cut)

    # -- the plan ----------------------------------------------------------------------------------------------------------

    def _plan(self, solved: _Solved, unruled: bool) -> Plan:
        define = solved.define
        graph = self._remember_graph(solved) if define.requires_grad and define.grad_mode else None
        outs = [None if g is None else solved.local_outs.get(o, g) for o, g in enumerate(define.outs)]
        ins = [solved.local_ins.get(i, g) for i, g in enumerate(define.ins)]
        lowered: Lowered | None = None
        args, kwargs = define.args, define.kwargs
        if solved.rule.localise is not None and not unruled:
            present = {o: g for o, g in enumerate(outs) if g is not None}
            args, kwargs = solved.rule.localise(args, kwargs, dict(enumerate(ins)), present)
        local = msgspec.structs.replace(define, call=0, args=args, kwargs=kwargs, ins=ins, outs=outs)
        if solved.rule.lowering and solved.lowers():
            lowered = lowerings.lower(solved.rule.lowering, define, local, solved.choices[0], self.mesh)
        reduces = [Reduce(tuple(found), axis) for axis, found in solved.reduces.items()]
        results = tuple(self._result_state(solved, o, g, lowered, graph) for o, g in enumerate(define.outs))
        written = tuple(i for group in solved.rule.groups for i in group.written)
        cuts = () if define.grad_mode else tuple(sorted(solved.cuts, key=lambda cut: -cut.weight))
        return Plan((*reduces, *solved.conversions), local, results, written, lowered, cuts)

    def _result_state(
        self, solved: _Solved, index: int, geometry: Geometry | None, lowered: Lowered | None, graph: Any
    ) -> int | None:
        if geometry is None:
            return None
        placed = list(solved.placed.get(index, (None,) * len(self.mesh.sizes)))
        for result, axis in lowered.whole if lowered else ():
            if result == index:
                placed[axis] = None
        is_handle = graph is not None and index == len(solved.define.outs) - 1
        return self.states.number(
            State(tuple(placed), view_of(geometry).extent, geometry.dtype, None, graph if is_handle else None)
        )

    def _remember_graph(self, solved: _Solved) -> Any:
        """The handle of a composite's graph remembers what forward chose: backward has no other choice."""
        key = (solved.define.call, solved.choices[0])
        self._graphs[key] = solved.rule.groups[0], solved.choices[0]
        return key

    def _backward_rule(self, define: Define, handle: State) -> tuple[Rule, Choice]:
        group, choice = self._graphs[handle.graph]
        _, *grads, wanted = define.args
        ins: dict[int, Labels] = {0: ()}
        for output, grad in enumerate(grads[0] if len(grads) == 1 and isinstance(grads[0], list) else grads):
            if grad is not None:
                ins[grad.index] = group.outs[output]  # type: ignore[union-attr, index]
        assert isinstance(wanted, list)
        outs = {n: group.ins[i] for n, i in enumerate(wanted)}  # type: ignore[index]
        sums = {n: group.may_shard - set(labels) for n, labels in outs.items()}
        return Rule((Group(ins, outs, group.may_shard, sums),)), choice


class _Solved:
    """What is decided about a call while its groups are solved one by one."""

    def __init__(self, define: Define, operands: list[State], rule: Rule) -> None:
        self.define = define
        self.operands = operands
        self.rule = rule
        self.choices: list[Choice] = []
        self.once: dict[int, frozenset[int]] = {}
        """By axis, for the group that is solved: the operands of which only one rank may have the elements."""
        self.conversions: list[Conversion] = []
        self.reduces: dict[int, list[int]] = {}
        self.local_ins: dict[int, Geometry] = {}
        self.local_outs: dict[int, Geometry] = {}
        self.placed: dict[int, OfStorage] = {}
        self.cuts: list[CutBack] = []

    def lowers(self) -> bool:
        """Whether a label is sharded for which the local call alone is not right."""
        lowered = self.rule.lowered
        return any(isinstance(c, Digit) and c.label in lowered for c in self.choices[0])


def _unruled(define: Define) -> Rule:
    """The rule of a call that has none: nothing is sharded."""
    ins: Mapping[int, Labels] = {i: (None,) * len(g.size) for i, g in enumerate(define.ins)}
    outs: Mapping[int, Labels] = {o: (None,) * len(g.size) for o, g in enumerate(define.outs) if g is not None}
    return Rule((Group(ins, outs, frozenset(), written=frozenset(define.writes)),))


class _Passing(NamedTuple):
    """A Partial of this kind passes through a call. `once`: replicated operands that only one rank may have for that."""

    kind: Partial
    once: frozenset[int]


def _passing(group: Group, operands: list[_Operand], axis: int) -> _Passing | None:
    """The Partial with which a group computes: all operands in which it is linear are one, and the others replicated.

    Something replicated is added to a Partial in place by one rank.
    """
    have = {operand.index: operand.view[axis] for operand in operands if operand.read}
    kinds = {placed for placed in have.values() if isinstance(placed, Partial)}
    if len(kinds) != 1 or not kinds <= group.passes:
        return None
    (kind,) = kinds
    partial = {index for index, placed in have.items() if placed is kind}
    for together in group.linear or (frozenset(have),):
        once = together - partial
        fits = (
            partial <= together and group.written <= partial and (not once or (bool(group.written) and kind is Partial.SUM))
        )
        if fits and all(have[index] is None for index in have.keys() - partial):
            return _Passing(kind, once)
    return None


def _is_added(group: Group, operand: _Operand, choice: Digit | Partial | None) -> bool:
    """Whether an operand is added to what is a Partial under a choice."""
    return isinstance(choice, Digit) and choice.label in group.once.get(operand.index, ())


def _needed(labels: Labels, choice: Digit | Partial | None) -> Shard | None:
    """The placement that an operand with these labels needs."""
    if isinstance(choice, Digit) and choice.label in labels:
        return Shard(labels.index(choice.label), choice.weight)
    return None


def _can_be_scattered(operand: _Operand, axis: int, choice: Digit | Partial | None) -> bool:
    """Whether a Partial may be reduced so that each worker gets only its part, into a copy."""
    if operand.written or operand.state.placed[axis] is Partial.NORM or _needed(operand.labels, choice) is None:
        return False
    return _is_whole(operand)


def _is_whole(operand: _Operand) -> bool:
    """Whether an operand is all of its storage, without gaps."""
    view = view_of(operand.geometry)
    dense = math.prod(view.size) == view.extent == operand.state.elements
    return dense and operand.geometry.dtype == operand.state.dtype


def _can_be_cut(operand: _Operand, axis: int) -> bool:
    """Whether an operand that is written may be sharded where it is: it is all of a replicated storage without a place."""
    return _is_whole(operand) and operand.state.placed[axis] is None and not operand.state.pinned


def _replaced(geometry: Geometry, view: View) -> Geometry:
    return msgspec.structs.replace(geometry, size=view.size, stride=view.stride, offset=view.offset)
