"""Models unlike a plain stack of layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.oracle.sharding.programs.nets import Block, Net, batch, classified, descend, on, tokens, trained
from tests.oracle.sharding.programs.program import program

Tensor = torch.Tensor


@program
def attention_with_masks(device: str) -> Iterator[Any]:
    """`nn.MultiheadAttention` with biases for keys, a mask of padding and a causal one; the weights are in the loss."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
            self.up = nn.Linear(8, 8)

        def forward(self, x: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
            causal = torch.triu(torch.ones(6, 6, dtype=torch.bool, device=x.device), 1)
            out, weights = self.attention(x, x, x, key_padding_mask=padding, attn_mask=causal)
            return self.up(out), weights

    model = on(device, Attends())
    padding = (torch.arange(6)[None] >= torch.tensor([6, 4, 3, 5])[:, None]).to(device)

    def loss(step: int) -> Tensor:
        out, weights = model(batch(device, step, 24)[0].view(4, 6, 8), padding)
        return out.masked_fill(padding[..., None], 0).square().sum() / (~padding).sum() + weights.square().mean()

    yield from trained(model, loss)


@program
def encoder_layers(device: str) -> Iterator[Any]:
    """`nn.TransformerEncoder` with dropout; the loss is that of the worst row. Then without gradients, on its fast path."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
    model = on(device, nn.Sequential(nn.Embedding(12, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 12)))

    def loss(step: int) -> Tensor:
        ids = tokens(device, step)
        return F.cross_entropy(model(ids).transpose(1, 2), ids.roll(1, 1), reduction="none").mean(1).max()

    yield from trained(model, loss)
    with torch.inference_mode():
        yield model.eval()(tokens(device, 9))


@program
def packed_sequences(device: str) -> Iterator[Any]:
    """An LSTM in both directions over sequences of several lengths, packed."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8, padding_idx=0)
            self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
            self.down = nn.Linear(12, 4)

        def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            packed = nn.utils.rnn.pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
            out, (hidden, _) = self.lstm(packed)
            return self.down(nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0]), hidden

    model = on(device, Tagger())

    def loss(step: int) -> Tensor:
        out, hidden = model(tokens(device, step, length=7, below=10), torch.tensor([7, 3, 5, 1]))
        return out.square().mean() + hidden.abs().sum() * 0.01

    yield from trained(model, loss)


@program
def state_carried_on(device: str) -> Iterator[Any]:
    """A GRU trained on pieces of a sequence, whose state goes on without its gradient; then it writes by itself."""

    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)
            self.gru = nn.GRU(8, 8, batch_first=True)

        def forward(self, ids: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
            out, state = self.gru(self.embed(ids), state)
            return self.head(out), state

    model = on(device, Writer())
    ids, state = tokens(device, 0, length=13), None
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, eps=1e-4)
    for start in (0, 4, 8):
        logits, state = model(ids[:, start : start + 4], state)
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, start + 1 : start + 5].flatten())
        descend(optimizer, loss)
        state = state.detach()
        yield loss.item()
    with torch.no_grad():
        written, state = ids[:, :2], None
        for _ in range(5):
            logits, state = model(written[:, -1:], state)
            written = torch.cat([written, logits[:, -1].argmax(-1, keepdim=True)], 1)
        yield written, torch.multinomial(logits[:, -1].softmax(-1), 3)


@program
def images(device: str) -> Iterator[Any]:
    """Grouped and transposed convolutions, three kinds of norms, pooling, resizing, dropout of channels."""

    class Sees(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, stride=2, groups=2)
            self.by_batch, self.by_group, self.by_row = nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(4)
            self.back, self.slope, self.drop = nn.ConvTranspose2d(8, 4, 2, 2, bias=False), nn.PReLU(8), nn.Dropout2d(0.3)
            self.head = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(self.slope(self.by_batch(self.first(x))), 2)
            x = self.drop(self.by_group(self.second(x)))
            x = F.interpolate(self.by_row(self.back(x)), scale_factor=2, mode="bilinear")
            return self.head(F.adaptive_avg_pool2d(F.relu(x), 2).amax((2, 3)) + x.mean((2, 3)))

    model = on(device, Sees())

    def loss(step: int) -> Tensor:
        x, y = batch(device, step, 4, 300)
        return F.cross_entropy(model(x.view(4, 3, 10, 10)), y)

    yield from trained(model, loss)
    yield model.eval()(batch(device, 9, 4, 300)[0].view(4, 3, 10, 10))


@program
def graph(device: str) -> Iterator[Any]:
    """Messages along edges: sums, means and maxima by index."""

    class Passes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            a, b = edges
            h = F.relu(self.up(x))
            total = torch.zeros_like(h).index_add_(0, b, h[a])
            degree = torch.zeros(len(x), device=x.device).scatter_add_(0, b, torch.ones(len(b), device=x.device))
            largest = torch.zeros_like(h).scatter_reduce(0, b[:, None].expand(-1, 16), h[a], "amax", include_self=False)
            return self.down(total / degree.clamp(min=1)[:, None] + largest)

    model = on(device, Passes())
    edges = tokens(device, 1, 2, 20, below=8)
    yield from trained(model, lambda step: model(batch(device, step)[0], edges).square().mean())


@program
def quantized_codes(device: str) -> Iterator[Any]:
    """A VQ-VAE: the nearest of some vectors by distance, straight-through gradients, how often each was used."""

    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.book = nn.Linear(8, 16), nn.Linear(16, 8), nn.Parameter(torch.randn(10, 8))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            z = self.down(torch.tanh(self.up(x)))
            nearest = torch.cdist(z, self.book).argmin(-1)
            code = self.book[nearest]
            return z + (code - z).detach(), z, code, torch.bincount(nearest, minlength=10)

    model = on(device, Codes())

    def loss(step: int) -> Tensor:
        out, z, code, used = model(batch(device, step)[0])
        kept = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        return torch.where(out > 0, out, 0.1 * out).square().mean() + kept + used.float().std()

    yield from trained(model, loss)


@program
def variational(device: str) -> Iterator[Any]:
    """A VAE, whose noise is drawn on the workers, and a relaxed categorical choice beside it."""

    class Vae(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.choice, self.down = nn.Linear(8, 16), nn.Linear(8, 4), nn.Linear(12, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            mean, spread = self.up(x).chunk(2, -1)
            z = mean + torch.randn_like(mean) * (0.5 * spread).exp()
            chosen = F.gumbel_softmax(self.choice(x), tau=0.7, hard=True)
            return self.down(torch.cat([z, chosen], -1)), mean, spread

    model = on(device, Vae())

    def loss(step: int) -> Tensor:
        x, _ = batch(device, step)
        out, mean, spread = model(x)
        divergence = -0.5 * (1 + spread - mean.square() - spread.exp()).sum(-1).mean()
        return F.mse_loss(out, x, reduction="sum") / len(x) + divergence

    yield from trained(model, loss, 4)


@program
def experts(device: str) -> Iterator[Any]:
    """A mixture of experts by gathering weights, another by sending rows to those that they chose, as many as there are."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.weights = nn.Linear(8, 4), nn.Parameter(torch.randn(4, 8, 8) * 0.3)
            self.experts, self.head = nn.ModuleList(Block() for _ in range(4)), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            top, chosen = self.gate(x).softmax(-1).topk(2, -1)
            x = x + torch.einsum("bkd,bkde,bk->be", x[:, None].expand(-1, 2, -1), self.weights[chosen], top)
            out = torch.zeros_like(x)
            for number, expert in enumerate(self.experts):
                rows, place = torch.where(chosen == number)
                if len(rows):
                    out.index_add_(0, rows, expert(x[rows]) * top[rows, place][:, None])
            return self.head(x + out)

    model = on(device, Experts())
    yield from trained(model, lambda step: classified(model, device, step))


@program
def deep_supervision(device: str) -> Iterator[Any]:
    """Buffers that the forward pass writes: a queue of past features, a scale that is replaced, a count of calls."""

    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.place = Block(), Block(), 0
            self.register_buffer("queue", torch.zeros(16, 8))
            self.register_buffer("scale", torch.ones(()), persistent=False)
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))
            self.register_buffer("mean", torch.zeros(8))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.calls += 1
            self.mean.lerp_(x.mean(0), 0.1)
            z = self.first(x - self.mean)
            with torch.no_grad():
                self.queue[self.place : self.place + len(x)] = z
                self.place = (self.place + len(x)) % 16
                self.scale = self.scale * 0.9 + z.abs().mean() * 0.1
            return self.second(z) * self.scale, z @ self.queue.clone().T

    model = on(device, Remembers())

    def loss(step: int) -> Tensor:
        out, similar = model(batch(device, step)[0])
        return out.square().mean() + similar.logsumexp(-1).mean()

    yield from trained(model, loss, 4)
    yield model.scale


@program
def frequencies_and_scans(device: str) -> Iterator[Any]:
    """Fourier transforms over the tokens, a recurrence by cumulative sums, a loop over time that writes its results."""

    class Mixes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.net, self.decay = nn.Embedding(12, 8), Net(out=12), nn.Parameter(torch.zeros(8))

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            x = x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real * 0.1
            rate = torch.sigmoid(self.decay)
            powers = rate.log() * torch.arange(x.shape[1], device=x.device)[:, None]
            x = x + (x * (-powers).exp()).cumsum(1) * powers.exp()
            states, state = torch.empty_like(x), torch.zeros_like(x[:, 0])
            for t in range(x.shape[1]):
                state = state * rate + x[:, t]
                states[:, t] = state
            return self.net(states)

    model = on(device, Mixes())

    def loss(step: int) -> Tensor:
        ids = tokens(device, step)
        return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    yield from trained(model, loss)


@program(tolerance=1e-4)
def solved_within(device: str) -> Iterator[Any]:
    """A Gaussian process on learnt features: a Cholesky factor in the loss, whose solves amplify rounding."""

    class Process(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.noise = Net(out=4), nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            z = self.net(x)
            kernel = (-0.5 * torch.cdist(z, z).square()).exp() + (self.noise.exp() + 0.1) * torch.eye(
                len(x), device=x.device
            )
            factor = torch.linalg.cholesky(kernel)
            fit = torch.cholesky_solve(y[:, None].float(), factor)
            return 0.5 * (y.float() * fit[:, 0]).sum() + factor.diagonal().log().sum()

    model = on(device, Process())
    yield from trained(model, lambda step: model(*batch(device, step)))
