"""A program that `gt check` runs: after its first training step it writes every tensor that has a name, and ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import safetensors.torch
import torch

GRADIENT = " (gradient)"
FILE = "tensors.safetensors"
SEED = 0
"""Of a program that sets none: both of its runs must draw the same numbers."""


class Checked:
    """See `inspected.Inspector`. `folder`: where the tensors are written."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        torch.manual_seed(SEED)
        self._roots: list[torch.nn.Module] = []
        self._gradients: dict[str, torch.Tensor] = {}
        self._computed_in = ""
        """The dtype of autocast, where some module was called under it."""

    def inside(self, module: torch.nn.Module) -> AbstractContextManager[object]:
        """A module is called."""
        if torch.is_autocast_enabled("remote"):
            self._computed_in = str(torch.get_autocast_dtype("remote")).removeprefix("torch.")
        return nullcontext()

    def forward(self, root: torch.nn.Module) -> None:
        """A root module is called."""
        if not any(root is one for one in self._roots):
            self._roots.append(root)

    def backward(self, ends: bool) -> None:
        """A backward pass begins or ends."""

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the gradients, which clipping may have changed, and the optimizer's step may."""
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, tensor in self._named():
            if id(tensor) in own and tensor.grad is not None:
                self._gradients[name + GRADIENT] = _local(tensor.grad)

    def end(self) -> bool:
        """Write the tensors."""
        found = {name: _local(tensor) for name, tensor in self._named()} | self._gradients
        path = os.path.join(self._folder, FILE)
        safetensors.torch.save_file(found, path + "~", {"computed_in": self._computed_in})
        os.replace(path + "~", path)
        return True

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        for root in self._roots:
            for name, tensor in (*root.named_parameters(), *root.named_buffers()):
                if tensor.layout is torch.strided:
                    yield name, tensor


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().clone()
