"""Small models, batches and loops that the programs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Tensor = torch.Tensor
ADAMW = partial(torch.optim.AdamW, lr=1e-2, eps=1e-4)
"""At a smaller `eps` the first steps amplify what rounding makes of gradients near zero."""
SGD = partial(torch.optim.SGD, lr=0.1)


class Block(nn.Module):
    """A residual MLP."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    """Two such blocks and a head."""

    def __init__(self, width: int = 8, out: int = 6) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def on(device: str, model: Any) -> Any:
    """A model on a device; what is drawn there begins anew, since only a CPU has drawn the parameters."""
    torch.manual_seed(1)
    return model.to(device)


def batch(device: str, step: int, rows: int = 8, width: int = 8, classes: int = 6) -> tuple[Tensor, Tensor]:
    """Features and labels."""
    generator = torch.Generator().manual_seed(step)
    features = torch.randn(rows, width, generator=generator)
    return features.to(device), torch.randint(0, classes, (rows,), generator=generator).to(device)


def tokens(device: str, step: int, rows: int = 4, length: int = 6, below: int = 12) -> Tensor:
    """Ids of a vocabulary."""
    return torch.randint(0, below, (rows, length), generator=torch.Generator().manual_seed(step)).to(device)


def classified(model: nn.Module, device: str, step: int) -> Tensor:
    """The loss of a classifier on a batch."""
    x, y = batch(device, step)
    return F.cross_entropy(model(x), y)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """A step of an optimizer."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def values(model: nn.Module) -> list[Tensor]:
    """All that a model's state dict has."""
    return list(model.state_dict().values())


def trained(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int = 3,
    make: Callable[..., torch.optim.Optimizer] = ADAMW,
    clip: float | None = 1.0,
) -> Iterator[Any]:
    """Train a model; yields every loss and norm of the gradients, and what the model is at the end."""
    optimizer = make(model.parameters())
    for step in range(steps):
        found = loss(step)
        optimizer.zero_grad()
        found.backward()
        if clip is not None:
            yield nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        yield found.item()
    yield values(model)
