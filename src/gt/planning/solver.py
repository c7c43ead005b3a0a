"""From a call and the states of its operands to its plan: group by group what is sharded, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gt.placement.digit import OfView, Partial, Underivable, View, part
from gt.placement.mesh import Mesh
from gt.planning import lowerings
from gt.planning.geometry import item_bytes, view_of
from gt.planning.plan import Choice, Lowered, Plan, Reduce
from gt.planning.rule import LabelGroup, Labels, Rule
from gt.planning.solving.choice import choose, passing
from gt.planning.solving.conversions import bring
from gt.planning.solving.operand import Operand
from gt.planning.solving.results import cut_back, place_results
from gt.planning.solving.solved import Solved
from gt.planning.state import State, States
from gt.wire.instructions import Define, Geometry


class Solver:
    """Plans calls on one mesh. `graphs`: what forward passes of composites chose, by call and choice."""

    def __init__(self, mesh: Mesh, states: States) -> None:
        self.mesh = mesh
        self.states = states
        self._graphs: dict[Any, tuple[LabelGroup, Choice]] = {}
        self.underivable: dict[str, str] = {}
        """Operators that had to gather a view, and why."""

    def solve(self, define: Define, operands: list[State], rule: Rule | None) -> Plan:
        """The plan of a call. Without a rule its operands are gathered and it is computed by every worker."""
        if rule is None and define.op == "gt::backward" and operands and operands[0].graph is not None:
            rule, fixed = self._backward_rule(define, operands[0])
        else:
            fixed = None
        known = rule or _unruled(define)
        solved = Solved(define, operands, known, self.mesh.sizes)
        for group in known.groups:
            self._solve_group(solved, group, fixed)
        return self._plan(solved, rule is None)

    def _solve_group(self, solved: Solved, group: LabelGroup, fixed: Choice | None) -> None:
        operands = [self._operand(solved, group, i) for i in group.ins if solved.operands[i].graph is None]
        for i in group.ins:
            if solved.operands[i].graph is not None:
                solved.local_ins[i] = solved.define.ins[i]
        choice = fixed if fixed is not None else choose(group, operands, self.mesh.sizes)
        while (impossible := place_results(solved, group, choice)) is not None:
            choice = (*choice[:impossible], None, *choice[impossible + 1 :])
        solved.choices.append(choice)
        passes = {axis: passing(group, operands, axis) for axis, c in enumerate(choice) if isinstance(c, Partial)}
        solved.once = {axis: found.once for axis, found in passes.items() if found is not None}
        for operand in operands:
            bring(solved, group, operand, choice)
        cut_back(solved, group, operands, choice)

    def _operand(self, solved: Solved, group: LabelGroup, index: int) -> Operand:
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
        seen = found[1] if written or geometry.dtype != state.dtype else _with_batch(view, found[1], state, self.mesh.sizes)
        return Operand(index, geometry, state, group.ins[index], written, read, placed, seen)

    def _plan(self, solved: Solved, unruled: bool) -> Plan:
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
        self, solved: Solved, index: int, geometry: Geometry | None, lowered: Lowered | None, graph: Any
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

    def _remember_graph(self, solved: Solved) -> Any:
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
        return Rule((LabelGroup(ins, outs, group.may_shard, sums),)), choice


def _with_batch(view: View, seen: OfView, state: State, sizes: tuple[int, ...]) -> OfView:
    """A view's placement, with that of a batch which it is a view of along the axes where it is replicated."""
    if state.batch is None:
        return seen
    start, period, placed = state.batch
    found = part(view._replace(offset=(view.offset - start) % period), placed, sizes)
    return seen if isinstance(found, Underivable) else tuple(s or b for s, b in zip(seen, found[1], strict=True))


def _unruled(define: Define) -> Rule:
    """The rule of a call that has none: nothing is sharded."""
    ins: Mapping[int, Labels] = {i: (None,) * len(g.size) for i, g in enumerate(define.ins)}
    outs: Mapping[int, Labels] = {o: (None,) * len(g.size) for o, g in enumerate(define.outs) if g is not None}
    return Rule((LabelGroup(ins, outs, frozenset(), written=frozenset(define.writes)),))
