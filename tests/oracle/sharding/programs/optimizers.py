"""Programs that change parameters by more than a gradient's step: unusual optimizers, averages of weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from tests.oracle.sharding.programs.nets import ADAMW, SGD, Net, batch, classified, descend, on, trained, values
from tests.oracle.sharding.programs.program import program

Tensor = torch.Tensor


@program
def optimizer_in_the_backward_pass(device: str) -> Iterator[Any]:
    """Every parameter has an optimizer, which steps as soon as there is a gradient."""
    model = on(device, Net())
    optimizers = {p: ADAMW([p]) for p in model.parameters()}

    def step_at_once(p: Tensor) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step_at_once)
    for step in range(4):
        loss = classified(model, device, step)
        loss.backward()
        yield loss.item()
    yield values(model)


@program(tolerance=1e-4)
def lbfgs(device: str) -> Iterator[Any]:
    """A step evaluates the loss several times; its line search divides by small differences, which amplifies rounding."""
    model = on(device, Net())
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = classified(model, device, 0)
        loss.backward()
        return loss

    for _ in range(2):
        yield optimizer.step(closure).item()
    yield values(model)


@program
def sharpness_aware(device: str) -> Iterator[Any]:
    """SAM: up along the gradient, whose norm is over all parameters, a second gradient there, and back."""
    model = on(device, Net())
    optimizer = SGD(model.parameters())
    for step in range(3):
        loss = classified(model, device, step)
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            climbed = [p.grad * (0.05 / (norm + 1e-12)) for p in model.parameters()]
            torch._foreach_add_(list(model.parameters()), climbed)
        optimizer.zero_grad()
        classified(model, device, step).backward()
        with torch.no_grad():
            for p, by in zip(model.parameters(), climbed, strict=True):
                p.sub_(by)
        optimizer.step()
        yield loss.item(), norm
    yield values(model)


@program(tolerance=2e-2)
def orthogonalized_momentum(device: str) -> Iterator[Any]:
    """Muon for the matrices, AdamW for all else: products of a gradient with itself, in bfloat16, as Muon has them."""
    model = on(device, Net())
    matrices = [p for p in model.parameters() if p.dim() == 2]
    optimizers = torch.optim.Muon(matrices, lr=0.02), ADAMW([p for p in model.parameters() if p.dim() != 2])
    for step in range(3):
        loss = classified(model, device, step)
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        yield loss.item()
    yield values(model)


@program
def adafactor(device: str) -> Iterator[Any]:
    """The state of a matrix are the means of its rows and of its columns."""
    model = on(device, Net())
    yield from trained(model, lambda step: classified(model, device, step), 4, lambda p: torch.optim.Adafactor(p, lr=0.05))


@program
def rates_by_layer(device: str) -> Iterator[Any]:
    """LARS: each parameter's rate is the ratio of its norm to its gradient's; gradients are centred by rows."""
    model = on(device, Net())
    for step in range(3):
        loss = classified(model, device, step)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                centred = p.grad - p.grad.mean(-1, keepdim=True) if p.dim() > 1 else p.grad
                norm = p.norm()
                rate = torch.where(norm > 0, norm / (centred.norm() + 1e-3), 1.0)
                p.add_(centred * rate.clamp(max=1.0), alpha=-0.1)
        yield loss.item()
    yield values(model)


@program
def projected_gradients(device: str) -> Iterator[Any]:
    """GaLore: the state of a matrix is in the space of its gradient's largest singular vectors."""
    model = on(device, Net())
    for step in range(2):
        loss = classified(model, device, step)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() == 2:
                    u, _, _ = torch.linalg.svd(p.grad, full_matrices=False)
                    space = u[:, :3]
                    p.sub_(space @ (space.T @ p.grad), alpha=0.1)
        yield loss.item()
    yield values(model)


@program
def two_tasks_in_conflict(device: str) -> Iterator[Any]:
    """Gradient surgery: of two tasks' gradients one is projected where they point against each other."""
    model = on(device, Net())
    for step in range(3):
        x, y = batch(device, step)
        out = model(x)
        grads = []
        for loss in (F.cross_entropy(out, y), -out.square().mean()):
            given = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            grads.append(torch.cat([g.flatten() for g in given]))
            yield loss.item()
        dot = torch.dot(*grads)
        if dot < 0:
            grads[0] = grads[0] - dot / grads[1].square().sum() * grads[1]
        yield dot
        pieces = (grads[0] + grads[1]).split([p.numel() for p in model.parameters()])
        with torch.no_grad():
            for p, piece in zip(model.parameters(), pieces, strict=True):
                p -= 0.1 * piece.view_as(p)
    yield values(model)


@program
def averages_of_weights(device: str) -> Iterator[Any]:
    """Moving averages by `swa_utils`, by hand, and of the buffers; the averages are evaluated and loaded."""
    model = on(device, nn.Sequential(nn.BatchNorm1d(8), Net()))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    by_hand = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = ADAMW(model.parameters())
    for step in range(4):
        loss = classified(model, device, step)
        descend(optimizer, loss)
        average.update_parameters(model)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    by_hand[name].lerp_(tensor, 0.1)
        yield loss.item()
    yield values(average), list(by_hand.values())
    model.load_state_dict(by_hand)
    yield model(batch(device, 9)[0])


@program
def equal_average_of_weights(device: str) -> Iterator[Any]:
    """Stochastic weight averaging with its schedule; the statistics of batch norm are computed anew for the average."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.BatchNorm1d(8), Net())
            self.average = AveragedModel(self.model)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    both = on(device, Both())
    optimizer = SGD(both.model.parameters())
    schedule = torch.optim.swa_utils.SWALR(optimizer, 0.05, anneal_epochs=2)
    for step in range(4):
        loss = classified(both, device, step)
        descend(optimizer, loss)
        both.average.update_parameters(both.model)
        schedule.step()
        yield loss.item()
    update_bn([batch(device, step)[0] for step in range(3)], both.average)
    yield values(both), both.average(batch(device, 9)[0])


@program
def master_weights(device: str) -> Iterator[Any]:
    """A copy of the weights in float64 is trained, and copied back into the model after each step."""
    model = on(device, Net())
    masters = [nn.Parameter(p.detach().double()) for p in model.parameters()]
    optimizer = ADAMW(masters)
    for step in range(3):
        loss = classified(model, device, step)
        model.zero_grad()
        loss.backward()
        for master, p in zip(masters, model.parameters(), strict=True):
            master.grad = p.grad.double()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), masters)
        yield loss.item()
    yield values(model), masters


@program
def search_for_a_rate(device: str) -> Iterator[Any]:
    """The rate grows until the loss does; then model and optimizer are what they were before, and train."""
    model = on(device, Net())
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.5)
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    best = math.inf
    for _ in range(6):
        optimizer.param_groups[0]["lr"] *= 4
        loss = classified(model, device, 0)
        descend(optimizer, loss)
        yield loss.item()
        if loss.item() > 2 * best:
            break
        best = min(best, loss.item())
    model.load_state_dict(before[0])
    optimizer.load_state_dict(before[1])
    for step in range(2):
        loss = classified(model, device, step)
        descend(optimizer, loss)
        yield loss.item()
    yield values(model)


@program
def rates_and_noise_on_the_workers(device: str) -> Iterator[Any]:
    """The rate is a tensor, gradients get noise, decay is by groups, and ReduceLROnPlateau looks at the loss."""
    model = on(device, Net())
    matrices, others = ([p for p in model.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    optimizer = ADAMW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=torch.tensor(0.01, device=device),
        foreach=False,
    )
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for step in range(4):
        loss = classified(model, device, step)
        optimizer.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.grad += torch.randn_like(p) * 1e-3
            p.grad.add_(torch.rand(p.shape, device=device), alpha=1e-3)
        optimizer.step()
        plateau.step(loss.item())
        yield loss.item(), optimizer.param_groups[0]["lr"]
    yield values(model)
