"""Rewrites one session's instructions into one stream for all workers of its mesh, with explicit collectives.

The stream is the same for every worker; they differ only in what `Cut`, `Slice`, `Once` and `Coordinate` mean to each. A
call is planned once for each combination of its operands' states, and costs a look-up from then on. What moves is a storage,
so every view of it sees that: a Partial is reduced once and stays so, and a write through a view that had to be gathered is
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gt.placement.digit import OfStorage, Partial, Underivable, digits, local_elements, local_weight, on_axis, part
from gt.placement.layout import Placement, Sharding
from gt.placement.pins import Pin, pin
from gt.planning.blocks import Blocks
from gt.planning.gathered import KEPT_BUCKETS, Gathered
from gt.planning.gradients import Gradients
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
from gt.planning.rules import find
from gt.planning.solver import Solver, item_bytes, view_of
from gt.planning.state import State, States, Stored
from gt.wire import instructions as wire

FIRST_ID = 1 << 50
"""The ids of storages that the planner makes start here, far above those of any client."""
BUCKET_BYTES = 25 << 20
"""Gradients are reduced together up to this many bytes, as in DistributedDataParallel."""
WHOLE_AT_ONCE = 5
"""Buckets of what is fully sharded, of which a worker holds the whole at one time: two of parameters (one in use, one on its
way) and three of gradients (one that is being filled, two on their way). Each is so much smaller: together they are one."""


class _Known:
    """A plan, and what is looked up of it in each run.

    `number`: of the local call, 0 for a lowering. `reduces`: operands to reduce. `adds`: whether it writes a storage and
    reads a Partial. `simple`: whether the local call is all.
    """

    __slots__ = ("adds", "number", "plan", "reduces", "results", "simple")

    def __init__(self, plan: Plan, number: int, states: Sequence[State]) -> None:
        self.plan = plan
        self.number = number
        self.results = [state for state in plan.results if state is not None]
        self.simple = plan.lowered is None and not plan.conversions
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
    """The planner of one session."""

    def __init__(self, sharding: Sharding) -> None:
        self.sharding = sharding
        self.mesh = sharding.mesh
        self.states = States()
        self.solver = Solver(self.mesh, self.states)
        self.storages: dict[int, Stored] = {}
        self.pins: dict[int, Pin] = {}
        """Where named storages belong."""
        self._provisional: set[int] = set()
        """Those whose names may become longer."""
        self.unruled: dict[str, int] = {}
        """How often an operator without a rule had sharded operands."""
        self.observer: Callable[[wire.FromClient, Sequence[wire.Instruction]], None] | None = None
        """Is told what became of each instruction."""
        self.generators_differ = False
        """Whether they may: a call that draws has failed on some worker."""
        self._whole: OfStorage = (None,) * len(self.mesh.sizes)
        self._calls: dict[int, _Call] = {}
        self._have_renamed = False
        """Whether some storage has been made anew, so that the workers know it by another id than the client."""
        self._local_calls: dict[bytes, int] = {}
        self._last_id = FIRST_ID
        self._pending = Gradients(BUCKET_BYTES, BUCKET_BYTES // WHOLE_AT_ONCE)
        self._gathered = Gathered(BUCKET_BYTES // WHOLE_AT_ONCE)
        self._ahead: tuple[Sequence[Stored], int] | None = None
        """What to gather, and along which axis, besides the operands of the call that is planned now."""
        self._blocks = Blocks(sharding.scope)
        self._out: list[wire.Instruction] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            wire.Op: self._op,
            int: self._free,
            wire.Define: self._define,
            wire.Forget: self._forget,
            wire.Query: self._query,
            wire.Upload: self._upload,
            wire.LoadFile: self._load_file,
            wire.Fetch: self._fetch,
            wire.SaveFile: self._save_file,
            wire.Name: self._name,
            wire.Argument: self._argument,
            wire.Gradients: self._gradients,
            wire.Crossing: self._crossing,
            wire.Phase: lambda item: None,
        }
        if sharding.scopes:
            self._handlers[wire.Scope] = self._scope

    def rewrite(self, items: Sequence[wire.FromClient]) -> list[wire.Instruction]:
        """The instructions of every worker for those of the client."""
        if self.generators_differ:
            self.generators_differ = False
            self._out += [wire.SameGenerator(axis) for axis in self._shared_axes()]
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
        out, self._out = self._out, []
        return out

    # -- storages ----------------------------------------------------------------------------------------------------------

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _stored(self, id: int, geometry: wire.Geometry) -> Stored:
        """A storage; one that was not met before, such as a query's result, is replicated."""
        stored = self.storages.get(id)
        if stored is None:
            stored = self._add(id, geometry)
        return stored

    def _add(self, id: int, geometry: wire.Geometry) -> Stored:
        state = State(self._whole, view_of(geometry).extent, geometry.dtype)
        stored = self.storages[id] = Stored(id, self.states.number(state))
        return stored

    def _set(self, stored: Stored, **changes: Any) -> None:
        stored.state = self.states.number(self.states[stored.state]._replace(**changes))

    def _place(self, stored: Stored, axis: int, placed: int | Partial | None) -> None:
        self._set(stored, placed=on_axis(self.states[stored.state].placed, axis, placed))

    def _part(self, stored: Stored, id: int, weight: int = 0, out: int = 0, placed: OfStorage | None = None) -> wire.Part:
        state = self.states[stored.state]
        elements = local_elements(state.elements, placed or state.placed, self.mesh.sizes)
        return wire.Part(id, elements, state.dtype, weight, out)

    def _free(self, id: int) -> None:
        stored = self.storages.pop(id, None)
        if stored is None:
            self._out.append(id)
            return
        if stored.is_special:
            self._pending.remove(id)
            if stored.copies is not None:
                self._drop_copies(stored)
            if self.pins.pop(id, None) is not None:
                self._provisional.discard(id)
                self._gathered.remove(stored)
        if id in self._blocks.made_in:
            self._blocks.free(id)
        self._out.append(stored.id)

    def _drop_copies(self, stored: Stored) -> None:
        if stored.copies is not None:
            self._out.extend(stored.copies.values())
            stored.copies = None
            self._gathered.forget(stored)

    # -- moving ------------------------------------------------------------------------------------------------------------

    def _cut(self, stored: Stored, axis: int, weight: int) -> None:
        """From replicated to sharded: every worker keeps its part."""
        self._place(stored, axis, weight)
        placed = self.states[stored.state].placed
        self._out.append(wire.Cut(axis, stored.id, local_weight(placed, self.mesh.sizes, axis)))

    def _reduce(self, storages: Sequence[Stored], axis: int) -> None:
        """Reduce Partials along an axis where they are."""
        kinds: dict[Partial, dict[int, wire.Part]] = {}
        for stored in storages:
            kind = self.states[stored.state].placed[axis]
            if isinstance(kind, Partial):
                kinds.setdefault(kind, {})[stored.id] = self._part(stored, stored.id)
                self._place(stored, axis, None)
                self._drop_copies(stored)
        for kind, parts in kinds.items():
            for bucket in _buckets(list(parts.values())):
                self._out.append(wire.AllReduce(axis, kind.value, bucket))

    def _gather(self, stored: Stored, id: int, placed: OfStorage, axis: int) -> int:
        """Gather what `id` holds of a storage that is placed so; returns the id of the copy."""
        out = self._new_id()
        weight = local_weight(placed, self.mesh.sizes, axis)
        self._out.append(wire.AllGather(axis, (self._part(stored, id, weight, out, placed),)))
        return out

    def _make_whole(self, stored: Stored) -> None:
        """Make a storage itself replicated."""
        for axis in range(len(self.mesh.sizes)):
            self._reduce([stored], axis)
        for _, axis in digits(self.states[stored.state].placed):
            self._gather_in_place(stored, axis)

    def _gather_in_place(self, stored: Stored, axis: int) -> None:
        before = stored.id
        self._have_renamed = True
        stored.id = self._gather(stored, before, self.states[stored.state].placed, axis)
        self._out.append(before)
        self._place(stored, axis, None)
        self._drop_copies(stored)

    def _whole_copy(self, id: int, geometry: wire.Geometry) -> tuple[int, list[int]]:
        """The id of a replicated storage with the same elements, and the copies that were made for it."""
        stored = self._stored(id, geometry)
        if id in self._pending and any(isinstance(p, Partial) for p in self.states[stored.state].placed):
            self._settle_gradients()
        for axis in range(len(self.mesh.sizes)):
            self._reduce([stored], axis)
        placed, at, made = self.states[stored.state].placed, stored.id, []
        for _, axis in digits(placed):
            at = self._gather(stored, at, placed, axis)
            placed = on_axis(placed, axis, None)
            made.append(at)
        return at, made

    def _restore(self, id: int) -> None:
        """A named storage that was gathered to be written goes back to where it belongs."""
        if id in self.pins:
            self._place_as(id, self.pins[id])

    def _place_as(self, id: int, belongs: Pin) -> None:
        """Cut a storage along the axes along which it is replicated and should not be."""
        stored = self.storages[id]
        placed = self.states[stored.state].placed
        if any(type(p) is int and p != wanted for p, wanted in zip(placed, belongs.stored, strict=True)):
            return
        for weight, axis in reversed(digits(belongs.stored)):
            if placed[axis] is None:
                self._cut(stored, axis, weight)

    # -- what the client says of its tensors -------------------------------------------------------------------------------

    def _name(self, item: wire.Name) -> None:
        rule = self.sharding.param(item.name)
        stored = self._stored(item.id, item.geometry)
        if item.id not in self.pins or (item.id in self._provisional and not item.provisional):
            placements = rule.placements if rule is not None else {}
            self._pin(
                item.id, stored, item.geometry, pin(view_of(item.geometry), placements, self.mesh, not item.provisional)
            )
            (self._provisional.add if item.provisional else self._provisional.discard)(item.id)

    def _pin(self, id: int, stored: Stored, geometry: wire.Geometry, belongs: Pin) -> None:
        if any(isinstance(part(view_of(geometry), p, self.mesh.sizes), Underivable) for p in belongs):
            belongs = Pin(self._whole, self._whole)
        if self.states[stored.state].placed != belongs.stored:
            self._make_whole(stored)
        self.pins[id] = belongs
        stored.is_special = True
        self._restore(id)
        gathers = belongs.computed != belongs.stored
        self._set(stored, computed=belongs.computed if gathers else None, pinned=True)
        self._drop_copies(stored)
        self._gathered.remove(stored)
        if gathers:
            state = self.states[stored.state]
            self._gathered.add(stored, state.elements * item_bytes(state.dtype))

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
            if id not in self.pins:
                for placements in self._blocks.crossed(id):  # type: ignore[arg-type]
                    if placements:
                        self._spread(id, geometry, placements)  # type: ignore[arg-type]
        self._op(item)
        for made in item.outs:
            self._blocks.made(made)

    def _spread(self, id: int, geometry: wire.Geometry, placements: dict[str, Placement]) -> None:
        """Place a tensor that is no parameter, along the axes that are named."""
        stored, view = self._stored(id, geometry), view_of(geometry)
        wanted = pin(view, placements, self.mesh, strict=False).stored
        for axis, name in enumerate(self.mesh.axes):
            if name not in placements or self.states[stored.state].placed[axis] == wanted[axis]:
                continue
            self._reduce([stored], axis)
            if type(self.states[stored.state].placed[axis]) is int:
                self._gather_in_place(stored, axis)
            weight = wanted[axis]
            if type(weight) is int:
                placed = on_axis(self.states[stored.state].placed, axis, weight)
                if not isinstance(part(view, placed, self.mesh.sizes), Underivable):
                    self._drop_copies(stored)
                    self._cut(stored, axis, weight)

    def _gradients(self, item: wire.Gradients) -> None:
        for parameter, gradient in item.pairs:
            if parameter not in self.pins or gradient not in self.storages:
                continue
            stored, belongs = self.storages[gradient], self.pins[parameter]
            state = self.states[stored.state]
            stored.is_special = True
            is_whole = state.elements == self._elements_of(parameter)
            if is_whole:
                self._place_as(gradient, belongs)
            in_parts = is_whole and any(isinstance(state.placed[axis], Partial) for _, axis in digits(belongs.stored))
            self._pending.add(gradient, parameter, state.elements * item_bytes(state.dtype), in_parts)
        for taken in self._pending.take_buckets():
            self._settle(taken)

    def _settle_gradients(self) -> None:
        """Bring every gradient to its parameter's placement."""
        self._settle(self._pending.take_all())

    def _settle(self, pending: dict[int, int]) -> None:
        """Bring gradients to their parameters' placements: reduced and scattered together, in buckets."""
        buckets: dict[tuple[int, Partial, bool], list[tuple[Stored, int]]] = {}
        for gradient, parameter in pending.items():
            stored = self.storages[gradient]
            belongs = self.pins[parameter].stored if parameter in self.pins else self._whole
            if self.states[stored.state].elements != self._elements_of(parameter):
                continue
            for axis, kind in enumerate(self.states[stored.state].placed):
                if isinstance(kind, Partial):
                    wanted = belongs[axis]
                    weight = wanted if type(wanted) is int else 0
                    buckets.setdefault((axis, kind, weight > 0), []).append((stored, weight))
        for (axis, kind, scatters), found in buckets.items():
            if scatters and kind is not Partial.NORM:
                self._reduce_scatter(axis, kind, found)
            else:
                self._reduce([stored for stored, _ in found], axis)

    def _elements_of(self, id: int) -> int:
        stored = self.storages.get(id)
        return self.states[stored.state].elements if stored is not None else -1

    def _reduce_scatter(self, axis: int, kind: Partial, found: list[tuple[Stored, int]]) -> None:
        parts = []
        for stored, weight in found:
            placed = self.states[stored.state].placed
            parts.append(self._scattered_part(stored, stored.id, placed, axis, weight))
            self._place(stored, axis, weight)
            self._drop_copies(stored)
        for bucket in _buckets(parts):
            self._out.append(wire.ReduceScatter(axis, kind.value, bucket))

    def _scattered_part(self, stored: Stored, id: int, placed: OfStorage, axis: int, weight: int, out: int = 0) -> wire.Part:
        """What a reduce-scatter along an axis makes the digit of `weight` of; `placed`: before that."""
        digit = local_weight(on_axis(placed, axis, weight), self.mesh.sizes, axis)
        return self._part(stored, id, digit, out, on_axis(placed, axis, None))

    # -- operators ---------------------------------------------------------------------------------------------------------

    def _define(self, item: wire.Define) -> None:
        self._calls[item.call] = _Call(item)

    def _forget(self, item: wire.Forget) -> None:
        for number in item.calls:
            self._calls.pop(number, None)
        for call in self._calls.values():
            call.plans.clear()
        if self._local_calls:
            self._out.append(wire.Forget(list(self._local_calls.values())))
            self._local_calls.clear()

    def _op(self, item: wire.Op) -> None:
        call, args, storages = self._calls.get(item.call), item.args, self.storages
        if call is None or len(args) < call.count:
            self._out.append(item)  # the workers do not know the call either, and say so
            return
        count = call.count
        try:
            operands = [storages[id] for id in args[:count]]  # type: ignore[index]
        except KeyError:
            operands = [self._stored(id, g) for id, g in zip(args, call.define.ins, strict=False)]  # type: ignore[arg-type]
        key = tuple([stored.state for stored in operands])
        known = call.plans.get(key)
        if known is None:
            known = call.plans[key] = self._plan(call.define, operands)
        if known.simple:
            ids = (*[stored.id for stored in operands], *args[count:]) if self._have_renamed else args
            self._out.append(wire.Op(known.number, item.out, ids, item.site))
            if type(item.out) is int:
                storages[item.out] = Stored(item.out, known.results[0])
                return
        elif known.plan.written and known.plan.conversions and _repeats(operands):
            self._run_whole(item, operands)
            return
        elif any(args[i] in self._pending for i in known.reduces):
            self._settle_gradients()
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
            self._make_whole(stored)
        self._op(item)
        for id in item.args[: len(operands)]:
            if id in self.pins:
                self._restore(id)  # type: ignore[arg-type]

    def _run(self, known: _Known, item: wire.Op, operands: list[Stored]) -> None:
        """Run a call that takes more than itself: conversions, or the steps of a lowering."""
        plan, ids = known.plan, [stored.id for stored in operands]
        for conversion in plan.conversions:
            self._convert(conversion, operands, ids)
        if self._ahead is not None:
            self._gather_ahead(*self._ahead, operands)
        numbers = item.args[len(operands) :]
        if plan.lowered is None:
            self._out.append(wire.Op(known.number, item.out, (*ids, *numbers), item.site))
        else:
            self._emit(plan, item, ids, numbers)
        self._drop_gathered(KEPT_BUCKETS, ())

    def _plan(self, define: wire.Define, operands: list[Stored]) -> _Known:
        """Plan a call for operands in these states."""
        states = [self.states[stored.state] for stored in operands]
        rule = find(define) if define.op != "gt::backward" else None
        plan = self.solver.solve(define, states, rule)
        if rule is None and define.op != "gt::backward" and any(state.placed != self._whole for state in states):
            self.unruled[define.op] = self.unruled.get(define.op, 0) + 1
        return _Known(plan, 0 if plan.lowered is not None else self._local_call(plan.local), states)

    def _after(self, known: _Known, item: wire.Op, operands: list[Stored]) -> None:
        plan = known.plan
        if plan.cuts:
            results = [o for o, state in enumerate(plan.results) if state is not None]
            for cut in plan.cuts:
                self._cut(self.storages[item.outs[results.index(cut.result)]], cut.axis, cut.weight)
        for i in plan.written:
            self._drop_copies(operands[i])
            if known.adds:
                self._pending.written(item.args[i])  # type: ignore[arg-type]
            if item.args[i] in self.pins:
                self._restore(item.args[i])  # type: ignore[arg-type]

    def _gather_ahead(self, bucket: Sequence[Stored], axis: int, operands: Sequence[Stored]) -> None:
        """Gather what the calls after this one need, in the place of what they do not need any more."""
        self._ahead = None
        self._drop_gathered(KEPT_BUCKETS - 1, operands)
        if self._gathered.have_room:
            self._gather_bucket(bucket, axis)

    def _drop_gathered(self, kept: int, needed: Sequence[Stored]) -> None:
        for stored, key in self._gathered.drop(kept, needed):
            if stored.copies is not None:
                self._out.append(stored.copies.pop(key))

    def _convert(self, conversion: Conversion, operands: list[Stored], ids: list[int]) -> None:
        match conversion:
            case Reduce(indices, axis):
                self._reduce([operands[i] for i in indices], axis)
            case Gather(index, axis, placed, written):
                if written:
                    self._gather_in_place(operands[index], axis)
                    ids[index] = operands[index].id
                else:
                    ids[index] = self._gathered_copy(operands[index], ids[index], placed, axis)
            case CutWritten(index, axis, weight):
                self._cut(operands[index], axis, weight)
            case Scatter() | TakeSlice() | TakeOnce():
                index = conversion.operand
                ids[index] = self._converted(conversion, operands[index], ids[index])

    def _converted(self, conversion: Scatter | TakeSlice | TakeOnce, stored: Stored, source: int) -> int:
        """The id of the copy that a conversion makes of a storage, which is made if there is none."""
        key = (msgspec.structs.replace(conversion, operand=0), source)
        found = stored.copy(key)
        if found is None:
            found = stored.keep(key, self._new_id())
            self._out.append(self._conversion(conversion, stored, source, found))
        return found

    def _conversion(
        self, conversion: Scatter | TakeSlice | TakeOnce, stored: Stored, source: int, out: int
    ) -> wire.Instruction:
        match conversion:
            case Scatter(_, axis, placed, kind, weight):
                return wire.ReduceScatter(
                    axis, kind.value, (self._scattered_part(stored, source, placed, axis, weight, out),)
                )
            case TakeSlice(_, axis, geometry, dim, weight):
                return wire.Slice(axis, source, geometry, out, dim, weight)
            case TakeOnce(_, axis):
                return wire.Once(axis, source, out)

    def _gathered_copy(self, stored: Stored, id: int, placed: OfStorage, axis: int) -> int:
        key = ("gather", placed, axis)
        if stored.copy(key) is None:
            if self.states[stored.state].computed is None or stored.id != id:
                stored.keep(key, self._gather(stored, id, placed, axis))
            else:
                self._gather_bucket(self._gathered.bucket(stored), axis)
        found = stored.copy(key)
        assert found is not None
        if ahead := self._gathered.use(stored):
            self._ahead = ahead, axis
        return found

    def _gather_bucket(self, bucket: Sequence[Stored], axis: int) -> None:
        """Gather those fully sharded parameters of a bucket that are not gathered yet."""
        parts = []
        for stored in bucket:
            state = self.states[stored.state]
            key = ("gather", state.placed, axis)
            if stored.copy(key) is None and _gathered_first(state) == axis:
                out = stored.keep(key, self._new_id())
                parts.append(self._part(stored, stored.id, local_weight(state.placed, self.mesh.sizes, axis), out))
                self._gathered.made(stored, key)
        if parts:
            self._out.append(wire.AllGather(axis, tuple(parts)))

    def _local_call(self, define: wire.Define) -> int:
        """The number by which the workers know a call."""
        plain = msgspec.structs.replace(define, call=0)
        key = msgspec.msgpack.encode(plain)
        number = self._local_calls.get(key)
        if number is None:
            number = self._local_calls[key] = len(self._local_calls) + 1
            self._out.append(msgspec.structs.replace(plain, call=number))
        return number

    def _emit(self, plan: Plan, item: wire.Op, ids: list[int], numbers: Sequence[Any]) -> None:
        """Emit the steps of a lowering."""
        assert plan.lowered is not None
        temporaries = [self._new_id() for _ in range(plan.lowered.temporaries)]
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

    # -- tensors in and out ------------------------------------------------------------------------------------------------

    def _query(self, item: wire.Query) -> None:
        """Its results are known to nobody yet, so every worker runs it on whole operands."""
        ins, made = [], []
        for index, (id, geometry) in enumerate(item.ins):
            if index in item.writes:
                self._make_whole(self._stored(id, geometry))
                self._drop_copies(self.storages[id])
                ins.append((self.storages[id].id, geometry))
            else:
                copy, copies = self._whole_copy(id, geometry)
                ins.append((copy, geometry))
                made += copies
        self._out.append(msgspec.structs.replace(item, ins=ins))
        self._out.extend(made)
        for index in item.writes:
            self._restore(item.ins[index][0])

    def _upload(self, item: wire.Upload) -> None:
        known = self.storages.get(item.id)
        if known is None:
            self._add(item.id, item.geometry)
            self._out.append(item)
            return
        self._make_whole(known)
        self._drop_copies(known)
        self._out.append(msgspec.structs.replace(item, id=known.id))
        self._restore(item.id)

    def _load_file(self, item: wire.LoadFile) -> None:
        """A tensor in a file is placed as the parameter of that name: a worker reads its own part of it."""
        rule = self.sharding.param(item.name)
        belongs = pin(view_of(item.geometry), rule.placements if rule is not None else {}, self.mesh, strict=False)
        state = State(belongs.stored, view_of(item.geometry).extent, item.geometry.dtype)
        self.storages[item.id] = Stored(item.id, self.states.number(state))
        cuts = tuple((axis, weight) for weight, axis in reversed(digits(belongs.stored)))
        self._out.append(msgspec.structs.replace(item, digits=cuts))

    def _fetch(self, item: wire.Fetch) -> None:
        id, made = self._whole_copy(item.id, item.geometry)
        self._out.append(msgspec.structs.replace(item, id=id))
        self._out.extend(made)

    def _save_file(self, item: wire.SaveFile) -> None:
        """Tensor by tensor, so that no worker has all of them."""
        file = verdict = self._new_id()
        held = [self._stored(id, geometry).id for id, geometry in item.tensors.values()]
        self._out.append(wire.Verdict(tuple(held), verdict))
        for axis in self._shared_axes():
            self._out.append(wire.AllReduce(axis, "max", (wire.Part(verdict, 1, "int64"),)))
        geometries = {name: geometry for name, (_, geometry) in item.tensors.items()}
        self._out.append(wire.BeginFile(file, item.path, geometries, item.metadata, verdict))
        for name, (id, geometry) in item.tensors.items():
            copy, made = self._whole_copy(id, geometry)
            self._out += [wire.WriteTensor(file, name, copy, geometry), *made]
        self._out += [wire.EndFile(item.request, file), verdict]

    def _shared_axes(self) -> list[int]:
        return [axis for axis, size in enumerate(self.mesh.sizes) if size > 1]


def _gathered_first(state: State) -> int:
    """The first axis along which a parameter is gathered for use; -1 if there is none."""
    computed = state.computed or state.placed
    return next((axis for _, axis in digits(state.placed) if computed[axis] is None), -1)


def _repeats(operands: list[Stored]) -> bool:
    """Whether two operands are views of one storage."""
    return len({stored.id for stored in operands}) < len(operands)


def _buckets(parts: list[wire.Part]) -> list[tuple[wire.Part, ...]]:
    """Parts in order, together up to `BUCKET_BYTES`."""
    buckets: list[list[wire.Part]] = []
    size = BUCKET_BYTES
    for one in parts:
        if size >= BUCKET_BYTES:
            buckets.append([])
            size = 0
        buckets[-1].append(one)
        size += one.elements * item_bytes(one.dtype)
    return [tuple(bucket) for bucket in buckets]
