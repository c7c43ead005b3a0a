"""Programs that cut, choose, mix and measure what goes into a model and comes out of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.oracle.sharding.programs.nets import ADAMW, SGD, Net, batch, classified, descend, on, tokens, trained, values
from tests.oracle.sharding.programs.program import program

Tensor = torch.Tensor


@program
def evaluation_between_micro_batches(device: str) -> Iterator[Any]:
    """Gradients add up over several batches, between which the model is evaluated on rows of another number."""
    model = on(device, nn.Sequential(nn.Dropout(0.1), Net()))
    optimizer = SGD(model.parameters())
    for step in range(3):
        optimizer.zero_grad()
        for part in range(3):
            loss = classified(model, device, 10 * step + part) / 3
            loss.backward()
            yield loss.item()
            model.eval()
            with torch.no_grad():
                x, y = batch(device, 99, 6)
                yield F.cross_entropy(model(x), y), (model(x).argmax(-1) == y).float().mean()
            model.train()
        yield nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
    yield values(model)


@program
def batches_of_any_size(device: str) -> Iterator[Any]:
    """The rows of a batch are as many as there are left: some divide, one row alone does not, none at all neither."""
    model = on(device, Net())
    optimizer = ADAMW(model.parameters())
    for step, rows in enumerate([8, 8, 3, 8, 1, 0, 5]):
        x, y = batch(device, step, rows)
        loss = F.cross_entropy(model(x), y, reduction="sum") / max(rows, 1)
        descend(optimizer, loss)
        yield loss.item()
    yield values(model)


@program
def slices_of_a_data_set(device: str) -> Iterator[Any]:
    """All rows are on the workers; batches are slices, permutations, every third row, an overlapping window of them."""
    model = on(device, Net())
    optimizer = SGD(model.parameters())
    rows, labels = batch(device, 0, 26)
    for _ in range(2):
        for start in range(0, 26, 8):
            loss = F.cross_entropy(model(rows[start : start + 8]), labels[start : start + 8])
            descend(optimizer, loss)
            yield loss.item()
        backwards = torch.arange(25, -1, -1).to(device)
        yield F.cross_entropy(model(rows[backwards][:6]), labels[backwards][:6]), rows[3:11].mean(0), rows[-2:]
        rows = rows.clone()
    with torch.no_grad():
        yield [model(part.to(device)) for (part,) in DataLoader(TensorDataset(rows.cpu()), 10)]
        yield [model(part) for part in (*rows.split(9), *rows.t().contiguous().t()[2:22].chunk(3))]
        yield [model(part) for part in (rows[1::3], rows.flip(0)[:7], rows[:1].expand(8, 8))]
        yield model(torch.as_strided(rows, (4, 8), (4, 1), 5))
    yield values(model), rows


@program
def rows_chosen_by_value(device: str) -> Iterator[Any]:
    """The loss is over the hardest rows: a median, the largest, a sort, those of one class, neighbours, windows."""
    model = on(device, Net())
    optimizer = ADAMW(model.parameters())
    for step in range(3):
        x, y = batch(device, step)
        out = model(x)
        each = F.cross_entropy(out, y, reduction="none")
        largest, of_class = each.topk(3).indices, torch.nonzero(y == 0).flatten()
        loss = each[each > each.median()].mean() + out[largest].square().mean() + each.sort(descending=True).values[:2].sum()
        loss = loss + (out[of_class].sum() if len(of_class) else 0) + each.cumsum(0)[-1] + out.flip(0)[:3].square().sum()
        loss = loss + (out[1:] - out[:-1]).square().mean() + out.unfold(0, 3, 2).var() + out.roll(2, 0)[0].square().sum()
        descend(optimizer, loss)
        yield loss.item(), largest, len(of_class)
    yield values(model)


@program
def views_of_the_batch(device: str) -> Iterator[Any]:
    """A dict goes in and another comes out; halves change places, heads are folded, results are written in place."""

    class Rearranges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(out=8)

        def forward(self, given: dict[str, Any]) -> dict[str, Tensor]:
            a, b = given["x"][:4], given["x"][4:]
            out = self.net(torch.cat([b, a])).view(2, 4, 8).transpose(0, 1).reshape(8, 8)
            folded = out.view(4, 2, 2, 4).permute(1, 0, 3, 2).contiguous().flatten(1)
            return {"out": out, "folded": folded, "both": torch.stack([a, b]).sum(0)}

    model = on(device, Rearranges())

    def loss(step: int) -> Tensor:
        made = model({"x": batch(device, step)[0], "unused": [torch.ones(3).to(device)]})
        out = made["out"]
        out[0] += 1.0
        out[:, 2].mul_(2)
        similar = torch.einsum("ij,kj->ik", out, out).logsumexp(0).mean()
        return out.square().mean() + made["folded"].std() + made["both"].square().mean() + similar

    yield from trained(model, loss)


@program
def measured(device: str) -> Iterator[Any]:
    """Inputs are standardized and masked by their values; results go into counts, sorts, quantiles and a histogram."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.net = nn.BatchNorm1d(8), Net()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.net(self.norm(x).masked_fill(mask[:, None], 0.0))

    model, confusion = on(device, Masked()), torch.zeros(6, 6, device=device)
    optimizer = ADAMW(model.parameters())
    for step in range(4):
        x, y = batch(device, step)
        x = (x - x.mean(0)) / x.std(0)
        out = model(x, mask=x[:, 0] > 0.5)
        loss = F.cross_entropy(out, y, label_smoothing=0.1)
        descend(optimizer, loss)
        chosen = out.argmax(1)
        confusion.index_put_((y, chosen), torch.ones(8, device=device), accumulate=True)
        yield loss.item(), (chosen == y).sum(), out.topk(2).values, out[y == 1], out.softmax(-1).max(), torch.unique(chosen)
        yield out[torch.argsort(out[:, 0])], out.quantile(0.3), torch.histc(out, 5), out.aminmax(), out.flatten().kthvalue(7)
    yield values(model), confusion


@program
def metrics_over_epochs(device: str) -> Iterator[Any]:
    """Losses are kept on the workers, the best of them decides which weights to keep."""
    model, kept, best, history = on(device, Net()), list[Tensor](), None, list[Tensor]()
    optimizer, total = SGD(model.parameters()), torch.zeros((), device=device)
    for step in range(5):
        x, y = batch(device, step)
        out = model(x)
        loss = F.cross_entropy(out, y)
        descend(optimizer, loss)
        history.append(loss.detach())
        total += loss.detach() * 2
        if best is None or loss < best:
            best, kept = loss.detach().clone(), [tensor.clone() for tensor in values(model)]
        out += 1
        yield out
    yield torch.stack(history), total, best, torch.stack(history).argmin(), max(one.item() for one in history)
    yield kept, values(model)


@program
def losses_with_ignored_labels(device: str) -> Iterator[Any]:
    """The same loss as a sum divided by hand, by classes with weights, and as `nll_loss`, where half has no label."""
    model = on(device, Net())
    weight = torch.linspace(0.1, 1, 6).to(device)

    def loss(step: int) -> Tensor:
        x, y = batch(device, step)
        y[:4] = -100
        out = model(x)
        by_hand = F.cross_entropy(out, y, reduction="sum") / (y != -100).sum()
        return by_hand + F.nll_loss(out.log_softmax(-1), y) + F.cross_entropy(out, y, weight=weight)

    yield from trained(model, loss)


@program
def many_losses(device: str) -> Iterator[Any]:
    """Bags of embeddings, and the losses that PyTorch has beside cross-entropy and squares."""

    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.each = nn.EmbeddingBag(12, 8, mode="mean"), nn.Embedding(12, 8)
            self.up, self.head = nn.Linear(8, 12), nn.Linear(8, 12)

        def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(self.each(ids)), self.up(self.bag(ids))

    model = on(device, Bags())

    def loss(step: int) -> Tensor:
        ids = tokens(device, step)
        each, whole = model(ids)
        labels = F.one_hot(ids[:, 0], 12).float()
        paths = F.ctc_loss(
            each.log_softmax(-1).transpose(0, 1), ids[:, :3] % 11 + 1, torch.full((4,), 6), torch.full((4,), 2)
        )
        found = [
            F.binary_cross_entropy_with_logits(whole, labels, pos_weight=torch.linspace(1, 2, 12).to(device)),
            F.cosine_embedding_loss(whole, each.mean(1), torch.ones(4, device=device)),
            F.triplet_margin_loss(whole, each[:, 0], each[:, 1]),
            F.gaussian_nll_loss(whole, each[:, 2], each[:, 3].exp()),
            F.kl_div(whole.log_softmax(-1), each[:, 0].softmax(-1), reduction="batchmean"),
            F.multi_margin_loss(whole, ids[:, 1]),
            F.smooth_l1_loss(whole, each[:, 4], beta=0.3),
            F.poisson_nll_loss(whole, each[:, 4].exp().detach()),
        ]
        return paths + torch.stack(found).sum()

    yield from trained(model, loss)


@program
def mixed_rows(device: str) -> Iterator[Any]:
    """Mixup: rows and their labels are mixed with those of a random permutation, by a random share; blocks are skipped."""

    class Skips(Net):
        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                if chance.random() > 0.3:
                    x = x + (block(x) - x) * torch.bernoulli(torch.full((len(x), 1), 0.8, device=x.device)) / 0.8
            return self.head(x)

    model, chance = on(device, Skips()), random.Random(0)

    def loss(step: int) -> Tensor:
        x, y = batch(device, step)
        order, share = torch.randperm(len(x), device=device), torch.rand((), device=device)
        out = model(share * x + (1 - share) * x[order])
        return share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[order])

    yield from trained(model, loss, 4)


@program
def written_with_a_cache(device: str) -> Iterator[Any]:
    """Tokens are chosen by nucleus and by beam from a model that keeps keys and values; then it is trained on."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.up, self.down = nn.Embedding(12, 8), nn.Linear(8, 24), nn.Linear(8, 8)
            self.head = nn.Linear(8, 12)

        def forward(self, ids: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            x = self.embed(ids)
            q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.up(x).chunk(3, -1))
            if past is not None:
                k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
            return self.head(x + self.down(out.transpose(1, 2).flatten(2))), (k, v)

    model = on(device, Attends())
    ids = tokens(device, 0)
    with torch.inference_mode():
        logits, past = model(ids[:, :3])
        written = ids[:, :3]
        for _ in range(3):
            sorted_, order = logits[:, -1].softmax(-1).sort(descending=True)
            kept = sorted_ * (sorted_.cumsum(-1) - sorted_ < 0.5)
            chosen = order.gather(-1, torch.multinomial(kept, 1))
            written = torch.cat([written, chosen], 1)
            logits, past = model(chosen, past)
        yield written
        best, beams = logits[:, -1].log_softmax(-1).flatten().topk(3)
        yield best, beams // 12, past[0][beams // 12]
    yield from trained(model, lambda step: F.cross_entropy(model(ids)[0].transpose(1, 2), ids.roll(-1, 1)))


@program(tolerance=1e-2)
def autocast(device: str) -> Iterator[Any]:
    """The forward pass is in bfloat16, which has eight bits: a sum over shards is rounded where that over all is not."""
    model = on(device, Net())

    def loss(step: int) -> Tensor:
        x, y = batch(device, step)
        with torch.autocast(device, torch.bfloat16):
            return F.cross_entropy(model(x).float(), y)

    yield from trained(model, loss)
