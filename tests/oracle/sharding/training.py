"""What a program shows that trains a model, and how far it is from what it shows on one worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class Trained:
    """What training showed. `collectives`: of each step, by kind and axis."""

    losses: list[float] = field(default_factory=list)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    """Of the first step."""
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    """At the end, with the buffers."""
    collectives: list[Counter[str]] = field(default_factory=list)
    gathered: dict[str, int] = field(default_factory=dict)
    """Operators that have no rule, and how often they met sharded operands."""


@dataclass(frozen=True)
class Apart:
    """The largest relative differences, by norm: of a loss, of a gradient, of a parameter."""

    loss: float
    gradient: float
    parameter: float
    worst: str = ""
    """The gradient that differs most."""

    def __str__(self) -> str:
        return f"{self.loss:7.1e} {self.gradient:7.1e} {self.parameter:7.1e}"


def apart(got: Trained, wanted: Trained) -> Apart:
    """How far two programs are apart."""
    losses = [torch.tensor(trained.losses) for trained in (got, wanted)]
    gradients = {name: relative(got.gradients[name], g) for name, g in wanted.gradients.items()}
    worst = max(gradients, key=lambda name: gradients[name])
    return Apart(
        max(relative(a, b) for a, b in zip(*losses, strict=True)),
        gradients[worst],
        max(relative(got.parameters[name], p) for name, p in wanted.parameters.items()),
        worst,
    )


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of the difference, relative to that of what is wanted."""
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    a, b = got.double(), wanted.double()
    if not torch.equal(a.isfinite(), b.isfinite()):
        return float("inf")
    return float((a - b).nan_to_num().norm() / b.nan_to_num().norm().clamp_min(1e-30))


def train(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    backward: Callable[[int], torch.Tensor],
    collectives: Callable[[], Counter[str]] = Counter,
    clip: float | None = None,
) -> Trained:
    """Train; `backward` does a step's forward and backward passes and returns the loss."""
    shown = Trained()
    collectives()
    for step in range(steps):
        loss = backward(step)
        if not step:
            shown.gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        shown.losses.append(loss.item())
        shown.collectives.append(collectives())
    shown.parameters = {n: t.detach().cpu() for n, t in model.state_dict(keep_vars=True).items()}
    return shown
