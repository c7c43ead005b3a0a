"""A program that `gt explain` runs: it says which phase and which module its instructions belong to."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import AbstractContextManager, nullcontext

import torch

from gt.client.patches.marks import marks
from gt.client.session.configured import configured
from gt.client.session.process import process
from gt.client.session.recording import record
from gt.client.stream.operands import operand
from gt.client.stream.scopes import module_scope
from gt.client.stream.segment import Segment, recorder
from gt.wire import instructions as wire

_node = torch._C._current_autograd_node
_next_node = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]
UNNUMBERED = 1 << 63
"""Nodes from this number on, which accumulate gradients, were made by no call."""


class Watched(Segment):
    """A segment that in backward records the scope in which forward made the node that runs.

    Autograd numbers its nodes as they are made, so a node belongs to the scope that was open when its number was given.
    """

    __slots__ = ("_begins", "_now", "_paths")

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._begins = [0]
        self._paths = [""]
        """The scope of the nodes that were made from each of `_begins` on."""
        self._now = ""

    def append(self, item: wire.Instruction) -> None:
        """Record an instruction."""
        if type(item) is wire.Scope:
            self._now = item.path
            if _node() is None:
                self._begins.append(_next_node())
                self._paths.append(item.path)
        elif type(item) is wire.Op and (node := _node()) is not None:
            self._enter(node._sequence_nr())
        super().append(item)

    def _enter(self, number: int) -> None:
        if number < UNNUMBERED:
            path = self._paths[bisect_right(self._begins, number) - 1]
            if path != self._now:
                self._now = path
                super().append(wire.Scope(path))

    def leave_backward(self) -> None:
        """Go back to the scope that is open in the program."""
        if self._now != self._paths[-1]:
            self._now = self._paths[-1]
            super().append(wire.Scope(self._now))


class Explained:
    """See `inspected.Inspector`. The program ends after `steps` training steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._optimizers: dict[int, torch.optim.Optimizer] = {}
        self._segment = Watched(recorder.segment.limit)
        self._segment.extend(recorder.segment)
        recorder.segment = self._segment
        configured.on_shapes = True

    def inside(self, module: torch.nn.Module) -> AbstractContextManager[object]:
        """In its scope, if it has a path."""
        path = marks.path(module)
        return module_scope(path) if path else nullcontext()

    def forward(self, root: torch.nn.Module) -> None:
        """A root module is called."""
        record(wire.Phase("forward" if torch.is_grad_enabled() else "evaluation"))

    def backward(self, ends: bool) -> None:
        """A backward pass begins or ends; what follows it is the optimizer's."""
        if ends:
            self._segment.leave_backward()
        record(wire.Phase("optimizer" if ends else "backward"))

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer is about to make a step."""
        self._optimizers[id(optimizer)] = optimizer

    def end(self) -> bool:
        """Say that the step has ended, and wait until all of it was planned."""
        record(wire.Phase("end", tuple(self._state())))
        process.session().ask(wire.Synchronize)
        self._left -= 1
        return self._left == 0

    def _state(self) -> list[int]:
        states = (state for one in self._optimizers.values() for state in one.state.values())
        tensors = (value for state in states for value in state.values() if isinstance(value, torch.Tensor))
        return [operand(t)[0] for t in tensors if t.device.type == "remote"]
