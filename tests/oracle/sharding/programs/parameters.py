"""Programs that do something with parameters besides handing them to an optimizer."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from tests.oracle.sharding.programs.nets import (
    ADAMW,
    SGD,
    Block,
    Net,
    batch,
    classified,
    descend,
    on,
    tokens,
    trained,
    values,
)
from tests.oracle.sharding.programs.program import program

Tensor = torch.Tensor


@program
def weights_shared_by_layers(device: str) -> Iterator[Any]:
    """Two layers have one weight, and a block is called twice."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.first, self.last = Block(), nn.Linear(8, 8), nn.Linear(8, 8)
            self.last.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.block(self.block(self.first(x))))

    model = on(device, Shared())
    yield from trained(model, lambda step: model(batch(device, step)[0]).square().mean())


@program
def frozen_parts_thawed_later(device: str) -> Iterator[Any]:
    """A block is frozen at first, and gets a group of its own in the optimizer; later the head is frozen."""
    model = on(device, Net())
    model.blocks[0].requires_grad_(False)
    optimizer = ADAMW([p for p in model.parameters() if p.requires_grad])
    for step in range(5):
        if step == 2:
            model.blocks[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model.blocks[0].parameters()), "lr": 1e-3})
        if step == 4:
            model.head.requires_grad_(False)
        loss = classified(model, device, step)
        descend(optimizer, loss)
        yield loss.item()
    yield values(model)


@program
def written_in_place(device: str) -> Iterator[Any]:
    """Plain gradient descent by hand, on parameters, on rows of them and on what `.data` is."""
    model = on(device, Net())
    for step in range(4):
        loss = classified(model, device, step)
        model.zero_grad(set_to_none=step % 2 == 0)
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
                p.grad.clamp_(-0.01, 0.01)
                p.sub_(p.grad)
            model.head.weight[0].zero_()
            model.head.weight.t()[1:3].mul_(0.5)
            model.blocks[0].up.weight.data[3:5] *= 2
            model.blocks[1].down.weight.view(-1)[5:70:3] += 0.01
            model.blocks[1].up.weight.diagonal().fill_(0.1)
            model.blocks[1].up.bias.chunk(2)[1].neg_()
        yield loss.item(), values(model)


@program
def data_replaced(device: str) -> Iterator[Any]:
    """`.data` is set to another tensor, of the same values or of others, between steps; an optimizer goes on."""
    model = on(device, Net())
    optimizer = ADAMW(model.parameters())
    for step in range(4):
        loss = classified(model, device, step)
        descend(optimizer, loss)
        model.head.bias.data = model.head.bias.data.clone() + 0.1
        model.head.weight.data = model.head.weight.data * 0.9
        model.blocks[0].up.weight.data, model.blocks[1].up.weight.data = (
            model.blocks[1].up.weight.data,
            model.blocks[0].up.weight.data,
        )
        model.blocks[0].norm.weight.data = torch.ones(8).to(device)
        yield loss.item()
    yield values(model)


@program
def as_one_vector(device: str) -> Iterator[Any]:
    """All parameters are put into one vector, and are views of it from then on."""
    model = on(device, Net())
    yield from trained(model, lambda step: classified(model, device, step), 2, SGD)
    vector = nn.utils.parameters_to_vector(model.parameters())
    yield vector.norm()
    nn.utils.vector_to_parameters(vector * 0.9, model.parameters())
    optimizer = SGD(model.parameters())
    for step in range(3):
        loss = classified(model, device, step)
        optimizer.zero_grad()
        loss.backward()
        yield loss.item(), nn.utils.parameters_to_vector([p.grad for p in model.parameters()]).norm()
        optimizer.step()
    yield values(model)


@program
def weights_cut_from_one_parameter(device: str) -> Iterator[Any]:
    """Weight and bias are views of one flat parameter, a buffer is a view of another one."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.up = nn.Parameter(torch.randn(64) * 0.3), nn.Linear(8, 8)
            self.register_buffer("large", torch.randn(4, 8, 8))
            self.register_buffer("piece", torch.zeros(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.up(x) @ self.piece, self.flat[:48].view(6, 8), self.flat[48:54])

    model = on(device, Flat())
    model.piece = model.large[1]

    def loss(step: int) -> Tensor:
        model.large[1] *= 1.1
        return model(batch(device, step)[0]).square().mean()

    yield from trained(model, loss)


@program
def parametrized(device: str) -> Iterator[Any]:
    """Weight norm, spectral norm, and a parametrization that is added in the middle of training and then removed."""

    class Symmetric(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.triu() + weight.triu(1).transpose(-1, -2)

    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.square = Net(out=8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.square(self.net(x))

    model = Squares()
    parametrizations.weight_norm(model.net.blocks[0].up)
    parametrizations.spectral_norm(model.net.head)
    on(device, model)
    yield from trained(model, lambda step: classified(model, device, step), 2)
    parametrize.register_parametrization(model.square, "weight", Symmetric().to(device))
    yield from trained(model, lambda step: classified(model, device, step), 2)
    parametrize.remove_parametrizations(model.square, "weight")
    yield from trained(model, lambda step: classified(model, device, step), 2)


@program
def pruned(device: str) -> Iterator[Any]:
    """The smallest weights of a layer are masked, then for good; rows of another one go by their norms."""
    model = on(device, Net())
    yield from trained(model, lambda step: classified(model, device, step), 2)
    prune.l1_unstructured(model.blocks[0].up, "weight", 0.5)
    prune.ln_structured(model.blocks[1].up, "weight", 0.25, n=2, dim=0)
    yield from trained(model, lambda step: classified(model, device, step), 2)
    prune.remove(model.blocks[0].up, "weight")
    yield from trained(model, lambda step: classified(model, device, step), 1)


@program
def adapters_of_low_rank(device: str) -> Iterator[Any]:
    """LoRA by hand, with dropout and a schedule; at the end the adapters are merged into the weights."""

    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base.requires_grad_(False)
            self.a = nn.Parameter(torch.randn(2, base.in_features) * 0.1)
            self.b = nn.Parameter(torch.zeros(base.out_features, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + F.dropout(x, 0.1, self.training) @ self.a.T @ self.b.T

    model = Net()
    for block in model.blocks:
        block.up, block.down = Adapted(block.up), Adapted(block.down)
    on(device, model)
    optimizer = ADAMW([p for p in model.parameters() if p.requires_grad])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=6)
    for step in range(5):
        loss = classified(model, device, step)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.05)
        optimizer.step()
        schedule.step()
        yield loss.item()
    with torch.no_grad():
        for block in model.blocks:
            for layer in (block.up, block.down):
                layer.base.weight += layer.b @ layer.a
                layer.b.zero_()
    yield model.eval()(batch(device, 9)[0]), values(model)


@program
def hypernetwork(device: str) -> Iterator[Any]:
    """The weights of a layer are the output of another network."""

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Parameter(torch.randn(4))
            self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 8 * 6 + 6)

        def forward(self, x: Tensor) -> Tensor:
            weights = self.down(torch.tanh(self.up(self.code)))
            return F.linear(x, weights[:48].view(6, 8), weights[48:])

    model = on(device, Hyper())
    yield from trained(model, lambda step: classified(model, device, step))


@program
def embedding_of_bounded_norm(device: str) -> Iterator[Any]:
    """The forward pass writes to the weight: rows that are looked up are scaled down to a norm."""
    model = on(device, nn.Sequential(nn.Embedding(12, 8, max_norm=1.0, padding_idx=0), nn.Linear(8, 12)))

    def loss(step: int) -> Tensor:
        return F.cross_entropy(model(tokens(device, step)).flatten(0, 1), tokens(device, step + 1).flatten())

    yield from trained(model, loss, 4)


@program
def copied_and_saved_in_mid_training(device: str) -> Iterator[Any]:
    """A model and its optimizer are saved, loaded, copied by `deepcopy`, and go on from there."""
    model = on(device, Net())
    optimizer, file = ADAMW(model.parameters()), io.BytesIO()
    for step in range(6):
        if step == 2:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        if step == 4:
            file.seek(0)
            loaded = torch.load(file)
            model.load_state_dict(loaded["model"])
            optimizer.load_state_dict(loaded["optimizer"])
        if step == 5:
            twin = copy.deepcopy(model)
            with torch.no_grad():
                twin.head.weight.mul_(0.5)
            yield values(twin)
            model.load_state_dict(twin.state_dict())
        loss = classified(model, device, step)
        descend(optimizer, loss)
        yield loss.item()
    yield values(model)


@program
def state_assigned(device: str) -> Iterator[Any]:
    """Parameters are made on `meta`, and those of a state dict take their places."""
    source = on(device, Net())
    with torch.device("meta"):
        model = Net()
    model.load_state_dict({name: tensor.clone() for name, tensor in source.state_dict().items()}, assign=True)
    yield from trained(model, lambda step: classified(model, device, step))


@program(tolerance=1e-4)
def lists_of_parameters(device: str) -> Iterator[Any]:
    """Parameters in lists and dicts, scalars among them, and layers that learn their sizes from the first batch. Batch norm
    divides by the deviation of few rows, which amplifies rounding."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = nn.ParameterList([nn.Parameter(torch.tensor(1.0 + i)) for i in range(3)])
            self.shifts = nn.ParameterDict({"in": nn.Parameter(torch.ones(8)), "out": nn.Parameter(torch.ones(1, 6))})
            self.lazy, self.norm = nn.LazyLinear(16), nn.LazyBatchNorm1d()
            self.down = nn.Linear(16, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(F.relu(self.lazy(x * self.scales[0] + self.shifts["in"])))
            return self.down(x * self.scales[1].exp()) / self.scales[2] * self.shifts["out"]

    model = on(device, Listed())
    with torch.no_grad():
        model(batch(device, 9)[0])
    yield from trained(model, lambda step: classified(model, device, step))
