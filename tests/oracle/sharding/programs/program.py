"""What a program is, how it is run, and how far what it shows is from what it should show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from gt.planning.planner import Planner
from tests.oracle.sharding.programs.placements import LAYOUTS, Named
from tests.oracle.sharding.systems import sharded
from tests.oracle.sharding.training import relative

Run = Callable[[str], Iterator[Any]]
"""Runs on a device, and yields what is to be compared: tensors, numbers, lists of these."""


@dataclass(frozen=True, eq=False)
class Program:
    """A program. `tolerance`: the largest relative difference by norm on several workers; `on_one`: on one of them."""

    run: Run
    tolerance: float
    on_one: float

    @property
    def name(self) -> str:
        return self.run.__name__

    def shown(self, device: str) -> list[torch.Tensor]:
        """What it shows on a device, in order."""
        torch.manual_seed(0)
        return [tensor for value in self.run(device) for tensor in _tensors(value)]

    @cached_property
    def on_a_cpu(self) -> tuple[list[torch.Tensor], Named]:
        """What it shows by PyTorch alone; and the sizes of the parameters and buffers of its root modules."""
        with _naming() as named:
            return self.shown("cpu"), named


def program(run: Run | None = None, *, tolerance: float = 1e-5, on_one: float = 0.0) -> Any:
    """Makes a program of a function."""
    return Program(run, tolerance, on_one) if run is not None else lambda run: Program(run, tolerance, on_one)


@dataclass
class Compared:
    """How far a program on a layout is from PyTorch. `worst`: the number of the value that differs most."""

    allowed: float
    apart: float = 0.0
    worst: int = 0
    gathered: dict[str, int] = field(default_factory=dict)
    """Operators without a rule, and how often they met sharded operands; never: a view of theirs cannot be derived."""


def compare(program: Program, layout: str) -> Compared:
    """Run a program on a layout."""
    wanted, named = program.on_a_cpu
    with sharded(LAYOUTS[layout](named)) as running:
        got = program.shown("remote")
        found = Compared(program.on_one if layout == "one" else program.tolerance, gathered=_gathered(running.planner))
    assert len(got) == len(wanted), f"{len(got)} values instead of {len(wanted)}"
    for number, (a, b) in enumerate(zip(got, wanted, strict=True)):
        apart = _apart(a, b)
        if not apart <= found.apart:
            found.apart, found.worst = apart, number
    return found


def _gathered(planner: Planner | None) -> dict[str, int]:
    return {**dict.fromkeys(planner.solver.underivable, 0), **planner.unruled} if planner is not None else {}


def _apart(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Zero where both have the same bits: what is not a floating-point number must be equal."""
    if got.dtype.is_floating_point or got.dtype.is_complex:
        return relative(got, wanted)
    return 0.0 if torch.equal(got, wanted) else float("inf")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
    else:
        yield value.detach().cpu().clone() if isinstance(value, torch.Tensor) else torch.tensor(value)


@contextmanager
def _naming() -> Iterator[Named]:
    """A context that notes the sizes of what root modules hold that are called in it, by name."""
    named: Named = {}
    roots: list[torch.nn.Module] = []

    def called(module: torch.nn.Module, args: Any) -> None:
        if any(module is not root and module in set(root.modules()) for root in roots):
            return
        roots.append(module)
        for name, tensor in (*module.named_parameters(remove_duplicate=False), *module.named_buffers()):
            if not torch.nn.parameter.is_lazy(tensor):
                named.setdefault(name, tuple(tensor.shape))

    handle = register_module_forward_pre_hook(called)
    try:
        yield named
    finally:
        handle.remove()
