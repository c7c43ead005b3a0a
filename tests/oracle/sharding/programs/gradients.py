"""Programs that ask autograd for more than one backward pass a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.oracle.sharding.programs.nets import ADAMW, SGD, Block, Net, batch, classified, descend, on, trained, values
from tests.oracle.sharding.programs.program import program

Tensor = torch.Tensor


def _penalised(model: nn.Module, device: str, steps: int, weight: float) -> Iterator[Any]:
    """Training steps whose loss has the gradient with respect to the batch in it."""
    optimizer = SGD(model.parameters())
    for step in range(steps):
        x, y = batch(device, step)
        x.requires_grad_()
        loss = F.cross_entropy(model(x), y)
        (of_batch,) = torch.autograd.grad(loss, x, create_graph=True)
        total = loss + of_batch.square().sum() * weight
        descend(optimizer, total)
        yield loss.item(), total.item(), of_batch
    yield values(model)


@program
def penalty_on_gradients(device: str) -> Iterator[Any]:
    """The loss has the gradient with respect to the batch in it."""
    yield from _penalised(on(device, Net()), device, 3, 10)


@program(on_one=1e-6)  # the last bits: docs/limits.md, gradients of gradients through recurrent cells
def penalty_through_dropout(device: str) -> Iterator[Any]:
    """Attention and a recurrent network with dropout in them: their second backward pass has the dropout of the first."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.attend, self.head = nn.GRU(8, 8, 2, dropout=0.5), nn.Linear(8, 24), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            words = self.read(x.expand(3, -1, -1))[0]
            query, key, value = self.attend(words).chunk(3, -1)
            return self.head(F.scaled_dot_product_attention(query, key, value, dropout_p=0.3).sum(0))

    yield from _penalised(on(device, Reader()), device, 2, 1)


@program
def several_backward_passes(device: str) -> Iterator[Any]:
    """Two losses of one graph, whose gradients add up; what came with the second is looked at."""
    model = on(device, Net())
    optimizer = SGD(model.parameters())
    for step in range(3):
        x, y = batch(device, step)
        out = model(x)
        one, other = F.cross_entropy(out, y), out.square().mean()
        optimizer.zero_grad()
        one.backward(retain_graph=True)
        first = [p.grad.clone() for p in model.parameters()]
        other.backward(inputs=[p for p in model.parameters() if p.dim() > 1])
        yield one.item(), other.item(), [(p.grad - g).norm() for p, g in zip(model.parameters(), first, strict=True)][0::2]
        yield torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
        optimizer.step()
    yield values(model)


@program
def hooks(device: str) -> Iterator[Any]:
    """Hooks on parameters, on gradients once they have accumulated, on modules, on what is between them."""
    model = on(device, Net())
    optimizer, seen = SGD(model.parameters()), list[Any]()
    for p in model.parameters():
        p.register_hook(lambda g: g * 0.5)
    model.head.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.norm()))
    model.blocks[0].up.weight.register_hook(lambda g: seen.append(g.abs().max()))
    model.blocks[1].register_full_backward_hook(lambda module, before, after: seen.append(after[0].clone()))
    model.blocks[1].register_forward_hook(lambda module, given, out: out * 1.5)
    model.blocks[0].register_forward_pre_hook(lambda module, given: (given[0] + 0.1,))

    def between(module: nn.Module, given: Any, out: Tensor) -> None:
        out.register_hook(lambda g: g.clamp(-0.1, 0.1))

    model.blocks[0].up.register_forward_hook(between)
    for step in range(3):
        loss = classified(model, device, step)
        descend(optimizer, loss)
        yield loss.item(), seen
    yield values(model)


@program
def checkpoints_with_dropout(device: str) -> Iterator[Any]:
    """Blocks run again in the backward pass, with the same dropout; one checkpoint inside another, and the older kind."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.drop = nn.ModuleList(Block() for _ in range(3)), nn.Dropout(0.2)

        def inner(self, x: Tensor) -> Tensor:
            x = checkpoint(lambda t: self.drop(self.blocks[0](t)), x, use_reentrant=False)
            return checkpoint(lambda t: self.drop(self.blocks[1](t)), x, use_reentrant=False)

        def forward(self, x: Tensor) -> Tensor:
            x = checkpoint(self.inner, x, use_reentrant=False)
            return checkpoint(lambda t: self.drop(self.blocks[2](t)), x, use_reentrant=True)

    model = on(device, Deep())
    yield from trained(model, lambda step: model(batch(device, step)[0]).square().mean())


@program
def functions_of_functions(device: str) -> Iterator[Any]:
    """`torch.func`: a gradient of a call with given parameters, one for each row by `vmap`, a Jacobian, forward mode."""
    model = on(device, Net())
    x, y = batch(device, 0)
    yield model(x)
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, params, (x,)), y)

    def of_row(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(params, x[None], y[None])

    yield list(grad(loss)(params, x, y).values())
    yield list(vmap(grad(of_row), in_dims=(None, 0, 0))(params, x, y).values())
    yield jacrev(lambda one: functional_call(model, params, (one,)))(x[0])
    yield jvp(lambda given: loss(params, given, y), (x,), (torch.ones_like(x),))
    stacked = {name: torch.stack([p, p * 0.9]) for name, p in params.items()}
    yield vmap(lambda given, one: functional_call(model, given, (one,)), in_dims=(0, None))(stacked, x)


@program(on_one=1e-6)
def steps_within_a_step(device: str) -> Iterator[Any]:
    """MAML: the loss after steps of gradient descent, through which the gradient goes; `linear` adds up in another order."""
    model = on(device, Net())
    optimizer = ADAMW(model.parameters())
    for step in range(2):
        optimizer.zero_grad()
        for task in range(2):
            fast = dict(model.named_parameters())
            for _ in range(2):
                x, y = batch(device, 10 * step + task)
                inner = F.cross_entropy(functional_call(model, fast, (x,)), y)
                slopes = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
                fast = {name: p - 0.1 * g for (name, p), g in zip(fast.items(), slopes, strict=True)}
            x, y = batch(device, 10 * step + task + 5)
            outer = F.cross_entropy(functional_call(model, fast, (x,)), y)
            outer.backward()
            yield outer.item()
        optimizer.step()
    yield values(model)


class Clamped(torch.autograd.Function):
    """A product whose backward pass is not that of its forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x.clamp(-1, 1) * weight

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return given * weight * 0.5, (given * x.clamp(-1, 1)).sum(0)


@program
def functions_of_their_own(device: str) -> Iterator[Any]:
    """An `autograd.Function`, a gradient that is reversed on its way, and one that goes straight through rounding."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.weight, self.critic = Net(out=8), nn.Parameter(torch.linspace(0.5, 1.5, 8)), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = Clamped.apply(self.net(x), self.weight)
            x = x + ((x * 4).round() / 4 - x).detach()
            reversed_ = 2 * x.detach() - x
            return x, self.critic(reversed_)

    model = on(device, Model())

    def loss(step: int) -> Tensor:
        x, y = batch(device, step, classes=2)
        out, domain = model(x)
        return out.square().mean() + F.cross_entropy(domain, y)

    yield from trained(model, loss)


@program
def fixed_point(device: str) -> Iterator[Any]:
    """A layer is applied until nothing changes, which a loop of Python finds out; one more call carries the gradient."""

    class Equilibrium(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.inner = nn.Linear(8, 8), nn.Linear(8, 8)
            self.rounds = 0

        def forward(self, x: Tensor) -> Tensor:
            given, z = self.up(x), torch.zeros_like(x)
            with torch.no_grad():
                for self.rounds in range(50):
                    found = torch.tanh(self.inner(z) + given)
                    if (found - z).abs().max() < 1e-2:
                        break
                    z = found
            return torch.tanh(self.inner(z) + given)

    model = on(device, Equilibrium())
    yield from trained(model, lambda step: model(batch(device, step)[0]).square().mean())
    yield model.rounds


@program
def noise_against_the_model(device: str) -> Iterator[Any]:
    """The batch is changed along its own gradient, and in place between the steps."""
    model = on(device, Net())
    optimizer = SGD(model.parameters())
    x, y = batch(device, 0)
    for step in range(4):
        x.add_(0.1)
        x[0] = 0
        noise = torch.zeros_like(x).requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(x + noise), y), noise)
        attacked = (x + 0.1 * slope.sign()).clamp(-3, 3)
        loss = F.cross_entropy(model(attacked), y)
        descend(optimizer, loss)
        x = x.clone() if step == 1 else x
        yield loss.item(), attacked
    yield values(model), x


@program(on_one=1e-6)
def curvature(device: str) -> Iterator[Any]:
    """Products of the Hessian with a vector: its largest eigenvalue, its diagonal. `linear` adds up in another order."""
    model = on(device, Net())
    weights = list(model.parameters())
    slopes = torch.autograd.grad(classified(model, device, 0), weights, create_graph=True)
    v = [torch.ones_like(p) for p in weights]
    for _ in range(3):
        length = torch.sqrt(sum((t.square().sum() for t in v), torch.zeros((), device=device)))
        v = [t / length for t in v]
        v = list(torch.autograd.grad(slopes, weights, v, retain_graph=True))
        yield torch.stack([t.square().sum() for t in v]).sum().sqrt()
    signs = [torch.randint(0, 2, p.shape, device=device).float() * 2 - 1 for p in weights]
    yield [s * h for s, h in zip(signs, torch.autograd.grad(slopes, weights, signs), strict=True)][-1]
