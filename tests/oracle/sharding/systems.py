"""A whole system in this process for a program that is sharded, with what its workers were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gt.fakes
from gt.client.patches import configuration
from gt.client.session.configured import configured
from gt.client.session.process import process
from gt.placement import config_file
from gt.placement.layout import Sharding
from gt.planning.plan import Plan
from gt.planning.planner import Planner
from gt.planning.rule import Rule
from gt.planning.state import State
from gt.wire import instructions as wire


@dataclass
class Running:
    """A system in use. `told`: the instructions that its planner made, if it has one; `planned`: what became of calls on
    operands that were not all replicated, "sharded", "gathered" or "no rule"."""

    system: gt.fakes.System
    planner: Planner | None = None
    told: list[wire.Instruction] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)

    def collectives(self) -> Counter[str]:
        """The collectives since this or `instructions` was asked last, by kind and axis."""
        axes = self.planner.mesh.axes if self.planner else ()
        return Counter(f"{type(i).__name__} {axes[i.axis]}" for i in self.instructions() if isinstance(i, wire.COLLECTIVES))

    def instructions(self) -> list[wire.Instruction]:
        """What the workers were told since this was asked last; everything recorded is executed first."""
        process.flush()
        self.system.settle()
        told, self.told = self.told, []
        return told


@contextmanager
def sharded(sharding: Sharding | str | None, worker_batch_size: int = 512) -> Iterator[Running]:
    """Remote tensors live in this process, on as many workers as a configuration (in YAML or made) needs; on one without.

    A worker is told at most `worker_batch_size` instructions at a time.
    """
    before = configured.sharding
    configured.sharding = config_file.parse(sharding, "test.yaml") if isinstance(sharding, str) else sharding
    if configured.sharding is not None:
        configuration.install()
    try:
        with gt.fakes.System(configured.workers_needed, worker_batch_size) as system:
            yield _tapped(system)
    finally:
        configured.sharding = before


def _tapped(system: gt.fakes.System) -> Running:
    system.settle()
    (session,) = system.dispatcher.state.sessions.values()
    running = Running(system, session.planner)
    if session.planner is not None:
        rewrite = session.planner.rewrite

        def tapped(items: Sequence[Any]) -> list[wire.Instruction]:
            made = rewrite(items)
            running.told += made
            return made

        session.planner.rewrite = tapped
        _classify_plans(running, session.planner)
    return running


def _classify_plans(running: Running, planner: Planner) -> None:
    solve = planner.solver.solve

    def solved(define: wire.Define, operands: list[State], rule: Rule | None) -> Plan:
        plan = solve(define, operands, rule)
        if any(p is not None for state in operands for p in state.placed):
            results = [planner.storages.states[n].placed for n in plan.results if n is not None]
            local = plan.local.ins != define.ins or any(p is not None for placed in results for p in placed)
            running.planned.append("no rule" if rule is None else "sharded" if local else "gathered")
        return plan

    planner.solver.solve = solved
