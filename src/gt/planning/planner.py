"""Rewrites one session's instructions into one stream for all workers of its mesh, with explicit collectives.

The stream is the same for every worker; they differ only in what `Cut`, `Slice`, `Once` and `Coordinate` mean to each. A
call is planned once for each combination of its operands' states, and costs a look-up from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gt.placement.digit import OfStorage, Underivable, View, digits, on_axis, part
from gt.placement.layout import Placement, Sharding
from gt.placement.pins import pin
from gt.planning.blocks import Blocks
from gt.planning.emitter import Emitter, KnownPlan
from gt.planning.geometry import view_of
from gt.planning.parameters import Parameters
from gt.planning.repeats import Repeats
from gt.planning.rules import find
from gt.planning.solver import Solver
from gt.planning.state import Batch, Stored
from gt.planning.transfers import Transfers
from gt.wire import instructions as wire
from gt.wire.messages import Answer, Recoverable


class _Call:
    """A call of the client's, and its plans by the states of its operands."""

    __slots__ = ("count", "define", "plans")

    def __init__(self, define: wire.Define) -> None:
        self.define = define
        self.count = len(define.ins)
        self.plans: dict[tuple[int, ...], KnownPlan] = {}


class Planner:
    """The planner of one session. While its program repeats itself, `storages` are those at the beginning of the round."""

    def __init__(self, sharding: Sharding) -> None:
        self.sharding = sharding
        self.mesh = sharding.mesh
        self.unruled: dict[str, int] = {}
        """How often an operator without a rule had sharded operands."""
        self.observer: Callable[[wire.FromClient, Sequence[wire.Instruction]], None] | None = None
        """Is told what became of each instruction."""
        self.generators_differ = False
        """Whether they may: a call has failed on some worker."""
        self.recoverable: list[Recoverable] = []
        """Storages that a failed call was to write, of which all workers have the same."""
        self._out: list[wire.Instruction] = []
        self.parameters = Parameters(sharding, self._out)
        self.storages = self.parameters.storages
        self.solver = Solver(self.mesh, self.storages.states)
        self._calls: dict[int, _Call] = {}
        self._emitter = Emitter(self.parameters)
        self._version = 0
        """How often a number of a call has got another meaning."""
        self._blocks = Blocks(sharding.scope)
        transfers = self._transfers = Transfers(sharding, self.parameters)
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
        if self.observer is None and not self.generators_differ and not self._transfers.have_written:
            return self._repeats.rewrite(items)
        self._repeats.stop()
        if self.generators_differ:
            self.generators_differ = False
            self._out += [wire.SameGenerator(axis) for axis in self.storages.shared_axes]
            self._recover()
        self._transfers.place_written()
        return self.plan(items)

    def _recover(self) -> None:
        """What a call that had begun has left is what one worker would have only where each of them has all of it."""
        found, by_id = [], {stored.id: stored for stored in self.storages.by_id.values()}
        for one in self.recoverable:
            stored = by_id.get(one.id)
            if stored is not None and (not one.content or self.storages.state(stored).placed == self.storages.whole):
                self.storages.drop_copies(stored)
                found.append(one.id)
        self.recoverable.clear()
        if found:
            self._out.append(wire.Recover(tuple(found)))

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

    def answered(self, answer: Answer) -> None:
        """The workers have answered a request: of a query's results it is known now what they are."""
        self._transfers.answered(answer)

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
        return self._emitter.operands[call]

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
                fits = self.storages.can_be_placed(stored, placed)
                if fits and not isinstance(part(view, placed, self.mesh.sizes), Underivable):
                    self.storages.drop_copies(stored)
                    self.storages.cut(stored, axis, weight)
        self._note_batch(stored, view, tuple(w if type(w) is int else None for w in wanted))

    def _note_batch(self, stored: Stored, view: View, wanted: OfStorage) -> None:
        """What of a view could not be sharded where it is, is sharded by the calls that read it."""
        seen = part(view, self.storages.state(stored).placed, self.mesh.sizes)
        missed = isinstance(seen, Underivable) or any(
            w is not None and s is None for w, s in zip(wanted, seen[1], strict=True)
        )
        batch = None
        if missed and (found := digits(wanted)):
            highest, axis = found[-1]
            period = highest * self.mesh.sizes[axis]
            batch = Batch(view.offset % period, period, wanted)
        if batch != self.storages.state(stored).batch:
            self.storages.set(stored, batch=batch)

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
        self._emitter.forget()

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
            self._emitter.run(known, item, operands)
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

    def _plan(self, define: wire.Define, operands: list[Stored]) -> KnownPlan:
        """Plan a call for operands in these states."""
        states = [self.storages.state(stored) for stored in operands]
        rule = find(define) if define.op != "gt::backward" else None
        plan = self.solver.solve(define, states, rule)
        if rule is None and define.op != "gt::backward" and any(state.placed != self.storages.whole for state in states):
            self.unruled[define.op] = self.unruled.get(define.op, 0) + 1
        return KnownPlan(plan, 0 if plan.lowered is not None else self._emitter.number(plan.local), states)

    def _after(self, known: KnownPlan, item: wire.Op, operands: list[Stored]) -> None:
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


def _repeats(operands: list[Stored]) -> bool:
    """Whether two operands are views of one storage."""
    return len({stored.id for stored in operands}) < len(operands)
