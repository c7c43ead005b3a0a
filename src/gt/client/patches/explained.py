"""A program that `gt explain` runs: it says which phase and which module its instructions belong to."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from gt.client.patches.marks import marks
from gt.client.session.configured import configured
from gt.client.session.process import process
from gt.client.session.recording import record
from gt.client.stream.operands import operand
from gt.client.stream.scopes import module_scope
from gt.client.stream.segment import recorder
from gt.client.stream.watched import Watched, watch
from gt.wire import instructions as wire


class Explained:
    """See `inspected.Inspector`. The program ends after `steps` training steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._optimizers: dict[int, torch.optim.Optimizer] = {}
        watch()
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
        if ends and isinstance(recorder.segment, Watched):
            recorder.segment.leave_backward()
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
