"""What the workers of a session are told of a call: conversions of operands, and the local call, or a lowering's steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gt.placement.digit import Partial
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
from gt.planning.state import State, Stored
from gt.wire import instructions as wire

MOST_COPIES = 16
"""What is kept of one storage that was gathered or sliced: of a data set, each batch is another slice."""


class KnownPlan:
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


class Emitter:
    """Appends to what the workers are told (`storages.out`). They know local calls by numbers of their own."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._storages = parameters.storages
        self._out = parameters.storages.out
        self._numbers: dict[bytes, int] = {}
        self.operands: dict[int, int] = {}
        """How many operands each local call has, by its number."""

    def number(self, define: wire.Define) -> int:
        """The number by which the workers know a call."""
        plain = msgspec.structs.replace(define, call=0)
        key = msgspec.msgpack.encode(plain)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers) + 1
            self.operands[number] = len(define.ins)
            self._out.append(msgspec.structs.replace(plain, call=number))
        return number

    def forget(self) -> None:
        """Let the workers forget all local calls."""
        if self._numbers:
            self._out.append(wire.Forget(list(self._numbers.values())))
            self._numbers.clear()
            self.operands.clear()

    def run(self, known: KnownPlan, item: wire.Op, operands: list[Stored]) -> None:
        """Run a call that takes more than itself: conversions, or the steps of a lowering."""
        plan, ids = known.plan, [stored.id for stored in operands]
        for conversion in plan.conversions:
            self._convert(conversion, operands, ids)
        self._parameters.gather_ahead(operands)
        numbers = item.args[len(operands) :]
        if plan.lowered is None:
            self._out.append(wire.Op(known.number, item.out, (*ids, *numbers), item.site))
        else:
            self._emit(plan, item, ids, numbers)
        self._parameters.drop_gathered()
        for stored in operands:
            if stored.copies is not None and len(stored.copies) > MOST_COPIES:
                self._storages.drop_copies(stored)

    def _convert(self, conversion: Conversion, operands: list[Stored], ids: list[int]) -> None:
        match conversion:
            case Reduce(indices, axis):
                self._storages.reduce([operands[i] for i in indices], axis)
            case Gather(index, axis, placed, written):
                if written:
                    self._storages.gather_in_place(operands[index], axis)
                    ids[index] = operands[index].id
                else:
                    ids[index] = self._parameters.gathered_copy(operands[index], ids[index], placed, axis)
            case CutWritten(index, axis, weight):
                self._storages.cut(operands[index], axis, weight)
            case Scatter() | TakeSlice() | TakeOnce():
                index = conversion.operand
                ids[index] = self._converted(conversion, operands[index], ids[index])

    def _converted(self, conversion: Scatter | TakeSlice | TakeOnce, stored: Stored, source: int) -> int:
        """The id of the copy that a conversion makes of a storage, which is made if there is none."""
        key = (msgspec.structs.replace(conversion, operand=0), source)
        found = stored.copy(key)
        if found is None:
            found = stored.keep(key, self._storages.new_id())
            self._out.append(self._conversion(conversion, stored, source, found))
        return found

    def _conversion(
        self, conversion: Scatter | TakeSlice | TakeOnce, stored: Stored, source: int, out: int
    ) -> wire.Instruction:
        match conversion:
            case Scatter(_, axis, placed, kind, weight):
                return wire.ReduceScatter(
                    axis, kind.value, (self._storages.scattered_part(stored, source, placed, axis, weight, out),)
                )
            case TakeSlice(_, axis, geometry, dim, weight):
                return wire.Slice(axis, source, geometry, out, dim, weight)
            case TakeOnce(_, axis):
                return wire.Once(axis, source, out)

    def _emit(self, plan: Plan, item: wire.Op, ids: list[int], numbers: Sequence[Any]) -> None:
        """Emit the steps of a lowering."""
        assert plan.lowered is not None
        temporaries = [self._storages.new_id() for _ in range(plan.lowered.temporaries)]
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
                return wire.Op(self.number(define), made[0] if len(made) == 1 else made, args, site)
            case ReduceStep(axis, kind, refs, elements, dtype):
                return wire.AllReduce(axis, kind, tuple(wire.Part(id_of(r), elements, dtype) for r in refs))
            case CoordinateStep(axis, scale, out):
                return wire.Coordinate(axis, scale, id_of(out))
            case SliceStep(axis, source, geometry, out, dim, weight):
                return wire.Slice(axis, id_of(source), geometry, id_of(out), dim, weight)
