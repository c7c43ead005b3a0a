"""Programs of several models, and of models that become others."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

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


class Pair(nn.Module):
    """Two models in one module, so that their parameters have different names."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor, which: str) -> Tensor:
        return getattr(self, which)(x)


@program
def against_each_other(device: str) -> Iterator[Any]:
    """A GAN: each of two models has its optimizer and learns from what the other one makes."""
    both = on(device, Pair(Net(out=8), Net(out=2)))
    makes, judges = (torch.optim.Adam(m.parameters(), 1e-2, eps=1e-4) for m in (both.one, both.other))
    for step in range(4):
        x, _ = batch(device, step)
        made = both(x, "one")
        loss = F.softplus(both(made.detach(), "other")).mean() + F.softplus(-both(x, "other")).mean()
        descend(judges, loss)
        fooled = F.softplus(-both(both(x, "one"), "other")).mean()
        descend(makes, fooled)
        yield loss.item(), fooled.item()
    yield values(both)


@program
def teacher_and_student(device: str) -> Iterator[Any]:
    """A student learns from a teacher, its own copy, which then follows it slowly."""
    student = Net()
    both = on(device, Pair(student, copy.deepcopy(student).requires_grad_(False)))

    def loss(step: int) -> Tensor:
        x, _ = batch(device, step)
        with torch.no_grad():
            for slow, fast in zip(both.other.parameters(), both.one.parameters(), strict=True):
                slow.mul_(0.9).add_(fast, alpha=0.1)
            target = both(x + 1, "other").softmax(-1)
        return F.kl_div(both(x, "one").log_softmax(-1), target, reduction="batchmean")

    yield from trained(both, loss, 4, clip=None)


@program
def replayed(device: str) -> Iterator[Any]:
    """A DQN: a ring of what was seen, written in place, actions by value or at random, a second net for the targets."""
    both = on(device, Pair(Net(out=4), Net(out=4)))
    both.other.load_state_dict(both.one.state_dict())
    optimizer, ring, place = SGD(both.one.parameters()), torch.zeros(32, 10, device=device), 0
    for step in range(4):
        x, _ = batch(device, step)
        with torch.no_grad():
            random = torch.randint(0, 4, (8,), device=device)
            action = torch.where(torch.rand(8, device=device) < 0.3, random, both(x, "one").argmax(-1))
        rows = (torch.arange(8, device=device) + place) % 32
        ring[rows] = torch.cat([x, action[:, None], x[:, :1]], 1)
        place += 8
        seen = ring[torch.randint(0, place, (8,), device=device)]
        value = both(seen[:, :8], "one").gather(1, seen[:, 8:9].long())
        with torch.no_grad():
            target = seen[:, 9:] + 0.9 * both(seen[:, :8].roll(1, 0), "other").amax(-1, keepdim=True)
        loss = F.huber_loss(value, target)
        descend(optimizer, loss)
        if step % 2:
            both.other.load_state_dict(both.one.state_dict())
        yield loss.item(), action
    yield values(both), ring


@program
def reinforced(device: str) -> Iterator[Any]:
    """Actions are drawn by `torch.distributions`; rewards and a bonus for entropy make the loss."""
    model = on(device, Net())
    optimizer = ADAMW(model.parameters())
    for step in range(3):
        x, y = batch(device, step)
        policy = torch.distributions.Categorical(logits=model(x))
        action = policy.sample()
        reward = (action == y).float()
        reward = (reward - reward.mean()) / (reward.std() + 1e-3)
        loss = -(policy.log_prob(action) * reward).mean() - 0.01 * policy.entropy().mean()
        descend(optimizer, loss)
        yield policy.probs, action
    yield values(model)


@program
def contrastive(device: str) -> Iterator[Any]:
    """Every row is compared with every other one; distances and a covariance are in the loss; a learnt temperature."""

    class Encodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.scale = Net(out=8), nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(self.net(x), dim=-1) * self.scale.exp().clamp(max=100).sqrt()

    model = on(device, Encodes())

    def loss(step: int) -> Tensor:
        a, b = model(batch(device, step)[0]), model(batch(device, step + 50)[0])
        logits, labels = a @ b.T, torch.arange(8, device=device)
        both = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        return both + torch.cdist(a, b).mean() + a.T.cov().square().sum() * 0.01

    yield from trained(model, loss)


@program
def predicts_its_own_features(device: str) -> Iterator[Any]:
    """Masked tokens, whose features a second model without gradients gives; a queue of negatives grows and is cut."""
    both = on(device, Pair(nn.Sequential(nn.Embedding(12, 8), Block()), nn.Sequential(nn.Embedding(12, 8), Block())))
    both.other.requires_grad_(False)
    queue = torch.zeros(0, 8, device=device)

    def loss(step: int) -> Tensor:
        nonlocal queue
        ids = tokens(device, step)
        hidden = torch.rand(ids.shape, device=device) < 0.4
        hidden[:, 0] = True
        out = both(ids.masked_fill(hidden, 0), "one")[hidden]
        with torch.no_grad():
            wanted = both(ids, "other")[hidden]
            queue = torch.cat([queue, wanted])[-20:]
        return F.smooth_l1_loss(out, wanted) + (out @ queue.T).logsumexp(-1).mean() * 0.1

    yield from trained(both, loss, 4)


@program
def another_architecture(device: str) -> Iterator[Any]:
    """Between two steps the model gets a block and another head, later a wider layer with the old one's values."""
    model = on(device, Net())
    yield from trained(model, lambda step: classified(model, device, step), 1)
    model.blocks.append(Block().to(device))
    model.head = nn.Linear(8, 8).to(device)
    yield from trained(model, lambda step: classified(model, device, step), 2)
    old, wider = model.blocks[0], Block()
    wider.up, wider.down = nn.Linear(8, 48), nn.Linear(48, 8)
    wider.to(device)
    with torch.no_grad():
        wider.norm.load_state_dict(old.norm.state_dict())
        wider.up.weight[:32] = old.up.weight
        wider.up.bias[:32].copy_(old.up.bias)
        wider.down.weight[:, :32] = old.down.weight
        wider.down.weight[:, 32:] = 0
    model.blocks[0] = wider
    del old
    yield from trained(model, lambda step: classified(model, device, step), 2)
    del model.blocks[1]
    yield from trained(model, lambda step: classified(model, device, step), 1)


@program
def moved_and_converted(device: str) -> Iterator[Any]:
    """A model becomes float64 and float32 again, goes to this process and comes back, and is trained between."""
    model = on(device, Net())
    yield from trained(model, lambda step: classified(model, device, step), 1)
    x, _ = batch(device, 9)
    yield model.double()(x.double())
    model.float()
    yield model.to("cpu")(x.cpu())
    model.to(device)
    yield from trained(model, lambda step: classified(model, device, step), 2)
    twin = copy.deepcopy(model)
    yield [torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True)]


@program
def no_module_at_all(device: str) -> Iterator[Any]:
    """Two tensors that are trained, which no rule can name."""
    weight, bias = torch.randn(8, 6).to(device).requires_grad_(), torch.zeros(6, device=device, requires_grad=True)
    optimizer = SGD([weight, bias])
    for step in range(3):
        x, y = batch(device, step)
        loss = F.cross_entropy(x @ weight + bias, y)
        descend(optimizer, loss)
        yield loss.item()
    yield weight, bias


@program
def exchanged_parts(device: str) -> Iterator[Any]:
    """Blocks change places, one is in the model twice, a layer is replaced by another one's weight transposed."""
    model = on(device, Net())
    yield from trained(model, lambda step: classified(model, device, step), 1)
    model.blocks[0], model.blocks[1] = model.blocks[1], model.blocks[0]
    yield from trained(model, lambda step: classified(model, device, step), 1)
    model.blocks.append(model.blocks[0])
    yield from trained(model, lambda step: classified(model, device, step), 1)
    model.blocks[1].down.weight = nn.Parameter(model.blocks[1].up.weight.detach().t().clone())
    yield from trained(model, lambda step: classified(model, device, step), 2)
