"""The optimizer of each precision, and the learning rate of each step."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping

import torch

GROUP_ELEMENTS = 1 << 24
"""Masters are stepped in groups of so many elements, so that few gradients exist in float32 at one time."""
STATE = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""What an optimizer keeps for each parameter, besides the number of steps."""
MASTERS = "masters"


def rate(kind: str, step: int, steps: int, warmup: int) -> float:
    """The factor of the learning rate in step `step` (from 0) of `steps`: a linear warm-up, then by `kind` of schedule."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if kind == "cosine":
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))
    if kind == "linear":
        return 1 - progress
    if kind == "wsd":
        return 1.0 if progress <= 0.8 else (1 - progress) / 0.2
    return 1.0


class Stepper:
    """Clips the gradients of named parameters and steps them, each time with its own learning rate.

    Parameters in bfloat16 have masters, copies in float32: these are stepped and then rounded to the parameters, and
    micro-batches are added up in float32 too.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], given: argparse.Namespace) -> None:
        self.given = given
        self.parameters = dict(parameters)
        self.masters = {name: _master(parameter) for name, parameter in parameters.items()}
        self.groups = [(names, self._optimizer(names)) for names in _groups(self.parameters)]
        if given.accumulate > 1:
            for name, parameter in self._rounded():
                parameter.register_post_accumulate_grad_hook(_adding_to(self.masters[name]))

    def _optimizer(self, names: list[str]) -> torch.optim.Optimizer:
        stepped, given = [self.masters[name] for name in names], self.given
        if given.optimizer == "sgd":
            return torch.optim.SGD(stepped, lr=given.lr, momentum=0.9, weight_decay=given.weight_decay)
        return torch.optim.AdamW(
            stepped, lr=given.lr, betas=(0.9, 0.95), eps=given.eps, weight_decay=given.weight_decay, fused=True
        )

    def _rounded(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The parameters that have masters."""
        return ((name, p) for name, p in self.parameters.items() if self.masters[name] is not p)

    @torch.no_grad()
    def step(self, factor: float) -> torch.Tensor:
        """Step with a learning rate of `factor` times its peak; returns the norm of the gradients before clipping."""
        norm = total_norm(self._gradients())
        for names, optimizer in self.groups:
            for name in names:
                self._hand_over(name)
            torch.nn.utils.clip_grads_with_norm_(
                [self.masters[name] for name in names], self.given.clip or math.inf, norm, foreach=None
            )
            for group in optimizer.param_groups:
                group["lr"] = self.given.lr * factor
            optimizer.step()
            optimizer.zero_grad()
            for name in names:
                if self.masters[name] is not self.parameters[name]:
                    self.parameters[name].copy_(self.masters[name])
        return norm

    def _gradients(self) -> list[torch.Tensor]:
        held = ((self.masters[name].grad, parameter.grad) for name, parameter in self.parameters.items())
        return [own if own is not None else given for own, given in held if own is not None or given is not None]

    def _hand_over(self, name: str) -> None:
        """Give a master the gradient of its parameter, if it has not been added to it already."""
        parameter, master = self.parameters[name], self.masters[name]
        if master is not parameter and parameter.grad is not None:
            master.grad = parameter.grad.float()
            parameter.grad = None

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        """All that the next step depends on besides the parameters: a kind of state, a parameter's name, the tensor."""
        kinds: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in STATE[self.given.optimizer]}
        for names, optimizer in self.groups:
            for name in names:
                for kind, held in kinds.items():
                    held[name] = optimizer.state[self.masters[name]][kind]
        masters = {name: self.masters[name].detach() for name, _ in self._rounded()}
        return kinds | ({MASTERS: masters} if masters else {})

    @torch.no_grad()
    def restore(self, kinds: Mapping[str, Mapping[str, torch.Tensor]], steps: int) -> None:
        """Go on from what `state` returned after so many steps. Raises KeyError for a kind or a name that is missing."""
        for name, _ in self._rounded():
            self.masters[name].copy_(kinds[MASTERS][name])
        for names, optimizer in self.groups:
            held = {i: {kind: kinds[kind][name] for kind in STATE[self.given.optimizer]} for i, name in enumerate(names)}
            if self.given.optimizer == "adamw":
                for state in held.values():
                    state["step"] = torch.tensor(float(steps))
            optimizer.load_state_dict({"state": held, "param_groups": optimizer.state_dict()["param_groups"]})


def total_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The norm of all gradients together, in float32 also of those in bfloat16."""
    if all(gradient.dtype == torch.float32 for gradient in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    return torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients]).norm()


def _master(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    return parameter if parameter.dtype == torch.float32 else torch.nn.Parameter(parameter.detach().float())


def _groups(parameters: Mapping[str, torch.nn.Parameter]) -> list[list[str]]:
    """Names that are stepped together: all at once, unless some have masters."""
    if all(parameter.dtype == torch.float32 for parameter in parameters.values()):
        return [[*parameters]]
    groups: list[list[str]] = [[]]
    size = 0
    for name, parameter in parameters.items():
        if size >= GROUP_ELEMENTS:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += parameter.numel()
    return groups


def _adding_to(master: torch.nn.Parameter) -> Callable[[torch.Tensor], None]:
    def add(parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)
        parameter.grad = None

    return add
