"""What becomes of a training step under a configuration: it listens to a planner, and is read when the step has ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gt.placement.digit import OfStorage, Partial, Underivable, digits, part
from gt.placement.layout import FullyShard, Placement, Placements, Shard
from gt.planning.footprint import GRADIENTS, OPTIMIZER, PARAMETERS, Footprint, HeldBytes, part_bytes, storage_bytes
from gt.planning.geometry import view_of
from gt.planning.planner import Planner
from gt.planning.rules import find
from gt.wire import instructions as wire

PHASES = ("forward", "backward", "optimizer")
"""Of a step; "optimizer" is all that follows backward, such as clipping."""
COLLECTIVES: dict[type, str] = {
    wire.AllReduce: "all-reduce",
    wire.AllGather: "all-gather",
    wire.ReduceScatter: "reduce-scatter",
}


@dataclass(frozen=True)
class Placed:
    """A named tensor: sizes in full and on each worker, bytes likewise, its placement, and the line that says so."""

    name: str
    size: tuple[int, ...]
    local_size: tuple[int, ...]
    dtype: str
    size_bytes: int
    local_bytes: int
    placement: str
    origin: str


@dataclass(frozen=True)
class Laid:
    """A tensor that a rule for inputs or scopes has placed; `name` says which."""

    name: str
    size: tuple[int, ...]
    dtype: str
    placement: str
    origin: str


class Route(NamedTuple):
    """Where a collective belongs, and what it moves along which axis; `op` is the operator that needs it."""

    phase: str
    scope: str
    kind: str
    axis: str
    what: str
    op: str


@dataclass
class Traffic:
    """How many collectives, of how many tensors, and their bytes: of what is reduced, or of what gathering makes."""

    count: int = 0
    tensors: int = 0
    size_bytes: int = 0


@dataclass
class Unruled:
    """A call that was computed whole by every worker: how often, and what was gathered or reduced for it."""

    scope: str
    count: int = 0
    size_bytes: int = 0


class _Collective(NamedTuple):
    phase: str
    scope: str
    op: str
    item: Any


@dataclass
class _Step:
    """What was noted since the step's begin."""

    collectives: list[_Collective] = field(default_factory=list)
    unruled: dict[tuple[str, str], Unruled] = field(default_factory=dict)


def _on_axis(axis: str, wanted: Placement | None, placed: int | Partial | None) -> str:
    if placed is None and isinstance(wanted, Shard | FullyShard):
        return f"{axis}: replicate (not {wanted}, which does not divide)"
    return f"{axis}: {wanted or ('replicate' if placed is None else 'as it was')}"


SIDES = {"inputs": "argument of", "out": "result of", "backward": "gradient that leaves"}


class Report:
    """Listens to a planner (`observe`). Whatever is asked of it is about the step that was begun last."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._mesh = planner.mesh
        self.sharding = planner.sharding
        self.steps = 0
        """How many steps have ended."""
        self.refused = ""
        """What could not be told from shapes."""
        self._footprint = Footprint(self._mesh.sizes)
        self._step = _Step()
        self._phase = ""
        self._scope = ""
        self._defined: dict[int, wire.Define] = {}
        self._placed: dict[str, Placed] = {}
        self._laid: dict[Laid, None] = {}
        self._kinds: dict[int, str] = {}
        """By the client's id."""
        self._told: dict[type, Callable[[Any], None]] = {
            wire.Phase: self._enter,
            wire.Scope: self._enter_scope,
            wire.Define: self._define,
            wire.Name: self._name,
            wire.Gradients: self._note_gradients,
            wire.Argument: self._argument,
            wire.Crossing: self._crossing,
        }

    def observe(self, item: wire.FromClient, made: Sequence[wire.Instruction]) -> None:
        """An instruction of the client became these."""
        told = self._told.get(type(item))
        if told is not None:
            told(item)
        for one in made:
            self._footprint.take(one)
        if self._phase in PHASES and made:
            self._note(item, [one for one in made if type(one) in COLLECTIVES])

    # -- listening ---------------------------------------------------------------------------------------------------------

    def _enter(self, item: wire.Phase) -> None:
        if item.name == "forward" and self._phase not in (*PHASES, "evaluation"):
            self._begin()
        if item.name == "end":
            self.steps += 1
            self._kinds |= dict.fromkeys(item.state, OPTIMIZER)
        if not (item.name == "evaluation" and self._phase not in PHASES):
            self._phase = item.name
        self._footprint.counts = self._phase in PHASES

    def _begin(self) -> None:
        self._step = _Step()
        self._footprint.begin()

    def _enter_scope(self, item: wire.Scope) -> None:
        self._scope = item.path

    def _define(self, item: wire.Define) -> None:
        self._defined[item.call] = item

    def _name(self, item: wire.Name) -> None:
        self._kinds[item.id] = PARAMETERS
        if item.provisional:
            return
        stored, view = self._planner.parameters.pins[item.id].stored, view_of(item.geometry)
        seen = part(view, stored, self._mesh.sizes)
        local = view.size if isinstance(seen, Underivable) else seen[0].size
        whole = storage_bytes(item.geometry)
        share = math.prod(self._mesh.sizes[axis] for _, axis in digits(stored))
        rule = self.sharding.param(item.name)
        placement = self._placement({} if rule is None else rule.placements, stored)
        self._placed[item.name] = Placed(
            item.name, view.size, local, item.geometry.dtype, whole, whole // share, placement, rule.origin if rule else ""
        )

    def _placement(self, wanted: Placements, placed: OfStorage) -> str:
        return ", ".join(_on_axis(axis, wanted.get(axis), p) for axis, p in zip(self._mesh.axes, placed, strict=True))

    def _argument(self, item: wire.Argument) -> None:
        rule = self.sharding.input(item.name)
        if rule is not None:
            self._lay(item, f"argument {item.name}", rule.placements, rule.origin)

    def _crossing(self, item: wire.Crossing) -> None:
        rule = self.sharding.scope(item.path)
        placements = rule.on_side(item.side) if rule is not None else {}
        if rule is not None and placements:
            name = f"{SIDES[item.side]} {item.path}"
            self._lay(item, name, placements, rule.origin)

    def _lay(self, item: wire.Argument | wire.Crossing, name: str, placements: Placements, origin: str) -> None:
        stored = self._planner.storages.by_id.get(item.id)
        if stored is not None:
            state = self._planner.storages.state(stored)
            placement = self._placement(placements, state.batch.placed if state.batch is not None else state.placed)
            self._laid[Laid(name, item.geometry.size, item.geometry.dtype, placement, origin)] = None

    def _note_gradients(self, item: wire.Gradients) -> None:
        self._kinds |= {gradient: GRADIENTS for _, gradient in item.pairs}

    def _note(self, item: wire.FromClient, made: list[wire.Instruction]) -> None:
        define = self._defined.get(item.call) if isinstance(item, wire.Op) else None
        op = define.op if define is not None else type(item).__name__
        self._step.collectives += [_Collective(self._phase, self._scope, op, one) for one in made]
        if made and define is not None and define.op != "gt::backward" and find(define) is None:
            found = self._step.unruled.setdefault((op, self._scope), Unruled(self._scope))
            found.count += 1
            found.size_bytes += sum(self._bytes(one) for one in made)

    def _bytes(self, item: Any) -> int:
        grows = self._mesh.sizes[item.axis] if isinstance(item, wire.AllGather) else 1
        return sum(map(part_bytes, item.parts)) * grows

    # -- reading -----------------------------------------------------------------------------------------------------------

    def placed(self) -> list[Placed]:
        """The named tensors, in the order in which they were named."""
        return list(self._placed.values())

    def laid(self) -> list[Laid]:
        """What rules for inputs and scopes have placed."""
        return list(self._laid)

    def moved(self) -> dict[Route, Traffic]:
        """The collectives of the step, alike ones together, in the order of the first."""
        found: dict[Route, Traffic] = {}
        kinds = self._kinds_on_workers()
        for phase, scope, op, item in self._step.collectives:
            what = " and ".join(sorted({kinds.get(part.id, "activations") for part in item.parts}))
            route = Route(phase, scope, COLLECTIVES[type(item)], self._mesh.axes[item.axis], what, op)
            one = found.setdefault(route, Traffic())
            one.count += 1
            one.tensors += len(item.parts)
            one.size_bytes += self._bytes(item)
        return found

    def held(self) -> HeldBytes:
        """The memory of each worker."""
        return self._footprint.held(self._kinds_on_workers())

    @property
    def peak_before(self) -> int:
        """The most bytes that each worker held before the first step, or between steps."""
        return self._footprint.peak_before

    def unruled(self) -> dict[tuple[str, str], Unruled]:
        """Operators without a rule that had to be computed whole, by operator and scope."""
        return self._step.unruled

    def underivable(self) -> dict[str, str]:
        """Operators that gathered a view since the workers' parts of it are no views, each with the last reason."""
        return dict(self._planner.solver.underivable)

    def _kinds_on_workers(self) -> dict[int, str]:
        stored = self._planner.storages.by_id
        return self._kinds | {stored[id].id: kind for id, kind in self._kinds.items() if id in stored}
