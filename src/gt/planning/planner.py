"""Rewrites one session's instructions into one stream for all workers of its mesh, with explicit collectives.

The stream is the same for every worker; they differ only in what `Cut`, `Slice`, `Once` and `Coordinate` mean to each. A
call is planned once for each combination of its operands' states, and costs a look-up from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gt.placement.digit import Partial, Underivable, on_axis, part
from gt.placement.layout import Placement, Sharding
from gt.placement.pins import pin
from gt.planning.blocks import Blocks
from gt.planning.geometry import view_of
from gt.planning.parameters import Parameters
from gt.planning.plan import (
    Conversion,
    CoordinateStep,
    CutWritten,
    Gather,
    Plan,
    Reduce,
    ReduceStep,
    Ref,
    RunStep,
    Scatter,
    SliceStep,
    Step,
    TakeOnce,
    TakeSlice,
)
from gt.planning.repeats import Repeats
from gt.planning.rules import find
from gt.planning.solver import Solver
from gt.planning.state import State, Stored
from gt.planning.transfers import Transfers
from gt.wire import instructions as wire


class _Known:
    """A plan, and what is looked up of it in each run.

    `number`: of the local call, 0 for a lowering. `reduces`: operands to reduce. `adds`: whether it writes a storage and
    reads a Partial. `simple`: whether the local call is all. `makes`: whether it only makes results.
    """

    __slots__ = ("adds", "makes", "number", "plan", "reduces", "results", "simple")

    def __init__(self, plan: Plan, number: int, states: Sequence[State]) -> None:
        self.plan = plan
        self.number = number
        self.results = [state for state in plan.results if state is not None]
        self.simple = plan.lowered is None and not plan.conversions
        self.makes = not plan.written and not plan.cuts
        self.reduces = [i for c in plan.conversions if isinstance(c, Reduce) for i in c.operands]
        self.reduces += [c.operand for c in plan.conversions if isinstance(c, Scatter)]
        read = [state for i, state in enumerate(states) if i not in plan.written]
        self.adds = bool(plan.written) and any(isinstance(p, Partial) for state in read for p in state.placed)


class _Call:
    """A call of the client's, and its plans by the states of its operands."""

    __slots__ = ("count", "define", "plans")

    def __init__(self, define: wire.Define) -> None:
        self.define = define
        self.count = len(define.ins)
        self.plans: dict[tuple[int, ...], _Known] = {}


class Planner:
    """The planner of one session. While its program repeats itself, `storages` are those at the begin of the round."""

    def __init__(self, sharding: Sharding) -> None:
        self.sharding = sharding
        self.mesh = sharding.mesh
        self.unruled: dict[str, int] = {}
        """How often an operator without a rule had sharded operands."""
        self.observer: Callable[[wire.FromClient, Sequence[wire.Instruction]], None] | None = None
        """Is told what became of each instruction."""
        self.generators_differ = False
        """Whether they may: a call that draws has failed on some worker."""
        self._out: list[wire.Instruction] = []
        self.parameters = Parameters(sharding, self._out)
        self.storages = self.parameters.storages
        self.solver = Solver(self.mesh, self.storages.states)
        self._calls: dict[int, _Call] = {}
        self._local_calls: dict[bytes, int] = {}
        self._local_operands: dict[int, int] = {}
        """How many operands each of them has."""
        self._version = 0
        """How often a number of a call has got another meaning."""
        self._blocks = Blocks(sharding.scope)
        transfers = Transfers(sharding, self.parameters)
        self._handlers: dict[type, Callable[[Any], None]] = {
            wire.Op: self._op,
            int: self._free,
            wire.Define: self._define,
            wire.Forget: self._forget,
            wire.Query: transfers.query,
            wire.Upload: transfers.upload,
            wire.LoadFile: transfers.load_file,
            wire.Fetch: transfers.fetch,
            wire.SaveFile: transfers.save_file,
            wire.Name: self.parameters.name,
            wire.Argument: self._argument,
            wire.Gradients: self.parameters.gradients,
            wire.Crossing: self._crossing,
            wire.Phase: lambda item: None,
        }
        if sharding.scopes:
            self._handlers[wire.Scope] = self._scope
        self._repeats = Repeats(self)

    def rewrite(self, items: Sequence[wire.FromClient]) -> list[wire.Instruction]:
        """The instructions of every worker for those of the client."""
        if self.observer is None and not self.generators_differ:
            return self._repeats.rewrite(items)
        self._repeats.stop()
        if self.generators_differ:
            self.generators_differ = False
            self._out += [wire.SameGenerator(axis) for axis in self.storages.shared_axes]
        return self.plan(items)

    def plan(self, items: Sequence[wire.FromClient], until: list[int] | None = None) -> list[wire.Instruction]:
        """The same, each of them planned now. `until`: is to say how many instructions there are up to each."""
        handlers, observer = self._handlers, self.observer
        for item in items:
            before = len(self._out) if observer is not None else 0
            handler = handlers.get(type(item))
            if handler is None:
                self._out.append(item)  # type: ignore[arg-type]
            else:
                handler(item)
            if observer is not None:
                observer(item, self._out[before:])
            if until is not None:
                until.append(len(self._out))
        out = self._out.copy()
        self._out.clear()
        return out

    # -- what a loop of the program is recognised by ----------------------------------------------------------------------

    def control(self) -> Any:
        """All that plans depend on but the storages of the program, to be compared. None: no loop begins here."""
        if not self._blocks.are_idle or (of_parameters := self.parameters.control()) is None:
            return None
        return self._version, self.storages.have_renamed, self._blocks.backward, of_parameters

    def operands(self, call: int) -> int:
        """How many operands a call of the client's has. Raises KeyError if it is not known."""
        return self._calls[call].count

    def local_operands(self, call: int) -> int:
        """How many operands a call of the workers' has. Raises KeyError if it is not known."""
        return self._local_operands[call]

    # -- what the client says of its tensors -------------------------------------------------------------------------------

    def _argument(self, item: wire.Argument) -> None:
        rule = self.sharding.input(item.name)
        if rule is not None:
            self._spread(item.id, item.geometry, rule.placements)

    def _crossing(self, item: wire.Crossing) -> None:
        rule = self.sharding.scope(item.path)
        placements = rule.on_side(item.side) if rule is not None else None
        if placements:
            self._spread(item.id, item.geometry, placements)

    def _scope(self, item: wire.Scope) -> None:
        self._out.append(item)
        self._blocks.now(item)
        self._handlers[wire.Op] = self._op_of_block if self._blocks.are_used else self._op

    def _op_of_block(self, item: wire.Op) -> None:
        """A call that may use what was made on the other side of a block's border."""
        call = self._calls.get(item.call)
        for id, geometry in zip(item.args, call.define.ins if call is not None else (), strict=False):
            if id not in self.parameters.pins:
                for placements in self._blocks.crossed(id):  # type: ignore[arg-type]
                    if placements:
                        self._spread(id, geometry, placements)  # type: ignore[arg-type]
        self._op(item)
        for made in item.outs:
            self._blocks.made(made)

    def _spread(self, id: int, geometry: wire.Geometry, placements: dict[str, Placement]) -> None:
        """Place a tensor that is no parameter, along the axes that are named."""
        stored, view = self.storages.find(id, geometry), view_of(geometry)
        wanted = pin(view, placements, self.mesh, strict=False).stored
        for axis, name in enumerate(self.mesh.axes):
            if name not in placements or self.storages.state(stored).placed[axis] == wanted[axis]:
                continue
            self.storages.reduce([stored], axis)
            if type(self.storages.state(stored).placed[axis]) is int:
                self.storages.gather_in_place(stored, axis)
            weight = wanted[axis]
            if type(weight) is int:
                placed = on_axis(self.storages.state(stored).placed, axis, weight)
                if not isinstance(part(view, placed, self.mesh.sizes), Underivable):
                    self.storages.drop_copies(stored)
                    self.storages.cut(stored, axis, weight)

    def _free(self, id: int) -> None:
        stored = self.storages.by_id.pop(id, None)
        if stored is None:
            self._out.append(id)
            return
        if stored.is_special:
            self.parameters.freed(id, stored)
        if id in self._blocks.made_in:
            self._blocks.free(id)
        self._out.append(stored.id)

    # -- operators ---------------------------------------------------------------------------------------------------------

    def _define(self, item: wire.Define) -> None:
        self._version += item.call in self._calls
        self._calls[item.call] = _Call(item)

    def _forget(self, item: wire.Forget) -> None:
        self._version += 1
        for number in item.calls:
            self._calls.pop(number, None)
        for call in self._calls.values():
            call.plans.clear()
        if self._local_calls:
            self._out.append(wire.Forget(list(self._local_calls.values())))
            self._local_calls.clear()
            self._local_operands.clear()

    def _op(self, item: wire.Op) -> None:
        call, args, storages = self._calls.get(item.call), item.args, self.storages.by_id
        if call is None or len(args) < call.count:
            self._out.append(item)  # the workers do not know the call either, and say so
            return
        count = call.count
        try:
            operands = [storages[id] for id in args[:count]]  # type: ignore[index]
        except KeyError:
            operands = [self.storages.find(id, g) for id, g in zip(args, call.define.ins, strict=False)]  # type: ignore[arg-type]
        key = tuple([stored.state for stored in operands])
        known = call.plans.get(key)
        if known is None:
            known = call.plans[key] = self._plan(call.define, operands)
        if known.simple:
            ids = (*[stored.id for stored in operands], *args[count:]) if self.storages.have_renamed else args
            self._out.append(wire.Op(known.number, item.out, ids, item.site))
            if known.makes and type(item.out) is int:
                storages[item.out] = Stored(item.out, known.results[0])
                return
        elif known.plan.written and known.plan.conversions and _repeats(operands):
            self._run_whole(item, operands)
            return
        elif any(args[i] in self.parameters.pending for i in known.reduces):
            self.parameters.settle_gradients()
            self._op(item)
            return
        else:
            self._run(known, item, operands)
        for id, state in zip(item.outs, known.results, strict=False):
            storages[id] = Stored(id, state)
        if known.plan.written or known.plan.cuts:
            self._after(known, item, operands)

    def _run_whole(self, item: wire.Op, operands: list[Stored]) -> None:
        """Run a call that reads, by another view, what it writes: both views need one storage."""
        for stored in operands:
            self.storages.make_whole(stored)
        self._op(item)
        for id in item.args[: len(operands)]:
            if id in self.parameters.pins:
                self.parameters.restore(id)  # type: ignore[arg-type]

    def _run(self, known: _Known, item: wire.Op, operands: list[Stored]) -> None:
        """Run a call that takes more than itself: conversions, or the steps of a lowering."""
        plan, ids = known.plan, [stored.id for stored in operands]
        for conversion in plan.conversions:
            self._convert(conversion, operands, ids)
        self.parameters.gather_ahead(operands)
        numbers = item.args[len(operands) :]
        if plan.lowered is None:
            self._out.append(wire.Op(known.number, item.out, (*ids, *numbers), item.site))
        else:
            self._emit(plan, item, ids, numbers)
        self.parameters.drop_gathered()

    def _plan(self, define: wire.Define, operands: list[Stored]) -> _Known:
        """Plan a call for operands in these states."""
        states = [self.storages.state(stored) for stored in operands]
        rule = find(define) if define.op != "gt::backward" else None
        plan = self.solver.solve(define, states, rule)
        if rule is None and define.op != "gt::backward" and any(state.placed != self.storages.whole for state in states):
            self.unruled[define.op] = self.unruled.get(define.op, 0) + 1
        return _Known(plan, 0 if plan.lowered is not None else self._local_call(plan.local), states)

    def _after(self, known: _Known, item: wire.Op, operands: list[Stored]) -> None:
        plan = known.plan
        if plan.cuts:
            results = [o for o, state in enumerate(plan.results) if state is not None]
            for cut in plan.cuts:
                self.storages.cut(self.storages.by_id[item.outs[results.index(cut.result)]], cut.axis, cut.weight)
        for i in plan.written:
            self.storages.drop_copies(operands[i])
            if known.adds:
                self.parameters.pending.written(item.args[i])  # type: ignore[arg-type]
            if item.args[i] in self.parameters.pins:
                self.parameters.restore(item.args[i])  # type: ignore[arg-type]

    def _convert(self, conversion: Conversion, operands: list[Stored], ids: list[int]) -> None:
        match conversion:
            case Reduce(indices, axis):
                self.storages.reduce([operands[i] for i in indices], axis)
            case Gather(index, axis, placed, written):
                if written:
                    self.storages.gather_in_place(operands[index], axis)
                    ids[index] = operands[index].id
                else:
                    ids[index] = self.parameters.gathered_copy(operands[index], ids[index], placed, axis)
            case CutWritten(index, axis, weight):
                self.storages.cut(operands[index], axis, weight)
            case Scatter() | TakeSlice() | TakeOnce():
                index = conversion.operand
                ids[index] = self._converted(conversion, operands[index], ids[index])

    def _converted(self, conversion: Scatter | TakeSlice | TakeOnce, stored: Stored, source: int) -> int:
        """The id of the copy that a conversion makes of a storage, which is made if there is none."""
        key = (msgspec.structs.replace(conversion, operand=0), source)
        found = stored.copy(key)
        if found is None:
            found = stored.keep(key, self.storages.new_id())
            self._out.append(self._conversion(conversion, stored, source, found))
        return found

    def _conversion(
        self, conversion: Scatter | TakeSlice | TakeOnce, stored: Stored, source: int, out: int
    ) -> wire.Instruction:
        match conversion:
            case Scatter(_, axis, placed, kind, weight):
                return wire.ReduceScatter(
                    axis, kind.value, (self.storages.scattered_part(stored, source, placed, axis, weight, out),)
                )
            case TakeSlice(_, axis, geometry, dim, weight):
                return wire.Slice(axis, source, geometry, out, dim, weight)
            case TakeOnce(_, axis):
                return wire.Once(axis, source, out)

    def _local_call(self, define: wire.Define) -> int:
        """The number by which the workers know a call."""
        plain = msgspec.structs.replace(define, call=0)
        key = msgspec.msgpack.encode(plain)
        number = self._local_calls.get(key)
        if number is None:
            number = self._local_calls[key] = len(self._local_calls) + 1
            self._local_operands[number] = len(define.ins)
            self._out.append(msgspec.structs.replace(plain, call=number))
        return number

    def _emit(self, plan: Plan, item: wire.Op, ids: list[int], numbers: Sequence[Any]) -> None:
        """Emit the steps of a lowering."""
        assert plan.lowered is not None
        temporaries = [self.storages.new_id() for _ in range(plan.lowered.temporaries)]
        ids_of = {"in": ids, "out": list(item.outs), "temporary": temporaries}

        def id_of(ref: Ref) -> int:
            return ids_of[ref.kind][ref.index]

        for step in plan.lowered.steps:
            self._out.append(self._instruction(step, id_of, numbers, item.site))
        self._out.extend(temporaries)

    def _instruction(self, step: Step, id_of: Callable[[Ref], int], numbers: Sequence[Any], site: int) -> wire.Instruction:
        match step:
            case RunStep(define, ins, outs, wanted):
                made = tuple(map(id_of, outs))
                args = (*map(id_of, ins), *(numbers[n] for n in wanted))
                return wire.Op(self._local_call(define), made[0] if len(made) == 1 else made, args, site)
            case ReduceStep(axis, kind, refs, elements, dtype):
                return wire.AllReduce(axis, kind, tuple(wire.Part(id_of(r), elements, dtype) for r in refs))
            case CoordinateStep(axis, scale, out):
                return wire.Coordinate(axis, scale, id_of(out))
            case SliceStep(axis, source, geometry, out, dim, weight):
                return wire.Slice(axis, id_of(source), geometry, id_of(out), dim, weight)


def _repeats(operands: list[Stored]) -> bool:
    """Whether two operands are views of one storage."""
    return len({stored.id for stored in operands}) < len(operands)
