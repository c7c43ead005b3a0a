"""Idioms of PyTorch users. Each is a function of a device that returns tensors and values, the same on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Idiom = Callable[[str], Any]
IDIOMS: dict[str, Idiom] = {}


def idiom(function: Idiom) -> Idiom:
    assert function.__name__ not in IDIOMS
    IDIOMS[function.__name__] = function
    return function


def net(device: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(device)


def data(device: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(device)


def grads(module: nn.Module) -> list[torch.Tensor | None]:
    return [p.grad for p in module.parameters()]


def message(run: Callable[[], Any]) -> str:
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def rounded(tensor: torch.Tensor | None) -> torch.Tensor:
    """For results computed in another order than on the CPU; float64, so that the sixth decimal is reliable."""
    assert tensor is not None
    assert tensor.dtype is torch.float64
    return tensor.detach().round(decimals=6)
