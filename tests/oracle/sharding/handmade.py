"""Calls that PyTorch's operator database lacks, or has in too few shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.oracle.sharding.recorded import Call, finish, recording


def calls() -> Iterator[Call]:
    """The calls of the programs below."""
    with recording() as found:
        for program in PROGRAMS:
            torch.manual_seed(3)
            program()
            finish()
            yield from found
            found.clear()


def _remote(*size: int, **options: Any) -> torch.Tensor:
    return torch.randn(size, device="remote", **options)


def _grown(*size: int) -> torch.Tensor:
    return _remote(*size).requires_grad_()


class Decoder(nn.Module):
    """A language model of one layer: fused projections, rotary embedding, RMS norm, a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 24)
        self.norm = nn.LayerNorm(24)
        self.rms = nn.RMSNorm(24)
        self.qkv = nn.Linear(24, 72)
        self.out = nn.Linear(24, 24, bias=False)
        self.up, self.gate, self.down = nn.Linear(24, 36), nn.Linear(24, 36, bias=False), nn.Linear(36, 24)
        self.head = nn.Linear(24, 12, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        q, k, v = self.qkv(self.norm(x)).split(24, -1)
        q, k, v = (t.unflatten(-1, (6, 4)).transpose(1, 2) for t in (q, k, v))
        q = torch.cat((-q[..., 2:], q[..., :2]), -1) * 0.5 + q
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(x.shape))
        h = self.rms(x)
        x = x + self.down(F.silu(self.gate(h)) * F.gelu(self.up(h)))
        return self.head(x)


def language_model() -> None:
    model = Decoder().to("remote")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, lr=1e-2)
    ids = torch.randint(0, 12, (6, 4), device="remote")
    for _ in range(2):
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten(), ignore_index=3)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def optimizers() -> None:
    for kind, options in OPTIMIZERS:
        model = nn.Linear(6, 4).to("remote")
        optimizer = kind(model.parameters(), **options)
        for _ in range(2):
            model(_remote(2, 6)).pow(2).sum().backward()
            optimizer.step()


OPTIMIZERS: list[tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.AdamW, {"fused": True, "lr": 1e-2}),
    (torch.optim.Adam, {"fused": True, "lr": 1e-2, "amsgrad": True, "weight_decay": 0.1}),
    (torch.optim.AdamW, {"foreach": True, "lr": 1e-2}),
    (torch.optim.AdamW, {"foreach": False, "lr": 1e-2}),
    (torch.optim.SGD, {"fused": True, "lr": 1e-2, "momentum": 0.9}),
    (torch.optim.SGD, {"foreach": True, "lr": 1e-2, "momentum": 0.9, "nesterov": True}),
    (torch.optim.Adagrad, {"fused": True, "lr": 1e-2}),
    (torch.optim.RMSprop, {"foreach": True, "lr": 1e-2, "momentum": 0.9, "centered": True}),
    (torch.optim.Adamax, {"foreach": True, "lr": 1e-2}),
    (torch.optim.NAdam, {"foreach": True, "lr": 1e-2}),
    (torch.optim.RAdam, {"foreach": True, "lr": 1e-2}),
    (torch.optim.Rprop, {"foreach": True, "lr": 1e-2}),
    (torch.optim.ASGD, {"foreach": True, "lr": 1e-2}),
    (torch.optim.Adadelta, {"foreach": True, "lr": 1e-2}),
]


def linears() -> None:
    for size in ((6, 4), (2, 3, 4), (2, 3, 6, 4)):
        for bias in (False, True):
            layer = nn.Linear(4, 6, bias).to("remote")
            x = _grown(*size)
            layer(x).sum().backward()
            with torch.no_grad():
                layer(x)
            F.linear(x.detach(), layer.weight).sum().backward()
    x = _remote(4, 6, 6).transpose(0, 1)
    F.linear(x, _grown(12, 6), _grown(12)).sum().backward()


def attention() -> None:
    q, k, v = (_grown(2, 6, 4, 6) for _ in range(3))
    F.scaled_dot_product_attention(q, k, v).sum().backward()
    F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3).sum().backward()
    for size in ((4, 4), (6, 4, 4), (1, 1, 4, 4), (2, 1, 4, 4), (2, 6, 4, 4)):
        F.scaled_dot_product_attention(q, k, v, attn_mask=_remote(*size))
        F.scaled_dot_product_attention(q, k, v, attn_mask=_remote(*size) > -1)
    F.scaled_dot_product_attention(q, _remote(2, 3, 4, 6), _remote(2, 3, 4, 6), enable_gqa=True)
    F.scaled_dot_product_attention(q, _remote(1, 6, 8, 6), _remote(1, 6, 8, 6))
    F.scaled_dot_product_attention(_remote(6, 4, 2), _remote(6, 3, 2), _remote(6, 3, 4))


def recurrent() -> None:
    for layer in (nn.LSTM(4, 6, 2, batch_first=True), nn.LSTM(4, 6, bidirectional=True), nn.GRU(4, 6), nn.RNN(4, 6, 2)):
        layer.to("remote")
        layer(_grown(6, 6, 4))[0].sum().backward()
        layer(_remote(2, 6, 4))
    for cell in (nn.LSTMCell(4, 6), nn.GRUCell(4, 6), nn.RNNCell(4, 6)):
        cell.to("remote")
        cell(_remote(6, 4))


def embeddings() -> None:
    table = _grown(6, 4)
    for size in ((6,), (2, 6), (2, 3, 4)):
        ids = torch.randint(0, 6, size, device="remote")
        for options in ({}, {"padding_idx": 2}, {"scale_grad_by_freq": True}):
            F.embedding(ids, table, **options).pow(2).sum().backward()
    F.one_hot(torch.arange(6, device="remote") % 4, 4)


def losses() -> None:
    for reduction in ("none", "sum", "mean"):
        for loss in (F.mse_loss, F.smooth_l1_loss, F.huber_loss, F.soft_margin_loss, F.binary_cross_entropy_with_logits):
            loss(_grown(6, 4), _remote(6, 4), reduction=reduction).sum().backward()
        F.binary_cross_entropy(_grown(6, 4).sigmoid(), _remote(6, 4).sigmoid(), reduction=reduction).sum().backward()
        F.binary_cross_entropy(
            _grown(6, 4).sigmoid(), _remote(6, 4).sigmoid(), weight=_remote(4).abs(), reduction=reduction
        ).sum().backward()
        F.binary_cross_entropy_with_logits(_remote(6, 4), _remote(6, 4), pos_weight=_remote(4), reduction=reduction)
        for weight in (None, _remote(6).abs()):
            target = torch.tensor([1, 2, 0, 5, 2, 2], device="remote")
            F.cross_entropy(_grown(6, 6), target, weight=weight, ignore_index=2, reduction=reduction).sum().backward()
            image = torch.randint(0, 6, (4, 2, 3), device="remote")
            F.cross_entropy(_grown(4, 6, 2, 3), image, weight=weight, ignore_index=2, reduction=reduction).sum().backward()


def images() -> None:
    for transposed in (False, True):
        for groups in (1, 2):
            for bias in (False, True):
                kind = nn.ConvTranspose2d if transposed else nn.Conv2d
                layer = kind(6, 4, 3, padding=1, stride=2, groups=groups, bias=bias).to("remote")
                layer(_grown(6, 6, 6, 6)).pow(2).sum().backward()
    nn.Conv1d(4, 6, 3).to("remote")(_grown(6, 4, 8)).sum().backward()
    nn.Conv3d(2, 6, 2).to("remote")(_grown(2, 2, 4, 4, 4)).sum().backward()
    x = _grown(6, 6, 6, 6)
    for module in (
        nn.BatchNorm2d(6),
        nn.BatchNorm2d(6, affine=False),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.GroupNorm(3, 6),
        nn.InstanceNorm2d(6),
    ):
        for training in (True, False):
            module.to("remote").train(training)
            module(x).pow(2).sum().backward()
    for module in (
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(2),
        nn.AdaptiveMaxPool2d(2),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.PixelUnshuffle(2),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d(1),
        nn.AdaptiveAvgPool2d(1),
    ):
        module(x).pow(2).sum().backward()
    F.grid_sample(x, _grown(6, 4, 2, 2), align_corners=False).sum().backward()
    F.grid_sample(_grown(2, 4, 2, 3, 4), _grown(2, 2, 3, 4, 3), align_corners=True).sum().backward()
    F.pixel_shuffle(_grown(2, 8, 3, 3), 2).sum().backward()


def lists() -> None:
    def several() -> list[torch.Tensor]:
        return [_remote(6, 4), _remote(2, 3), _remote(6), _remote()]

    a, b, c = several(), several(), several()
    positive = torch._foreach_abs(b)
    for name in [
        "abs",
        "acos",
        "ceil",
        "cos",
        "erf",
        "exp",
        "floor",
        "neg",
        "reciprocal",
        "sigmoid",
        "sign",
        "sin",
        "tanh",
        "trunc",
        "zero",
    ]:
        for found in (f"_foreach_{name}", f"_foreach_{name}_"):
            if hasattr(torch, found):
                getattr(torch, found)(several())
    torch._foreach_sqrt(positive)
    torch._foreach_log(positive)
    for name in ("add", "sub", "mul", "div", "maximum", "minimum", "clamp_max", "clamp_min", "pow"):
        for found in (f"_foreach_{name}", f"_foreach_{name}_"):
            getattr(torch, found)(torch._foreach_abs(several()), positive)
            getattr(torch, found)(torch._foreach_abs(several()), 2.5)
            getattr(torch, found)(torch._foreach_abs(several()), [1.5, 2.5, 3.5, 4.5])
    for name in ("add", "mul", "div"):
        for found in (f"_foreach_{name}", f"_foreach_{name}_"):
            getattr(torch, found)(several(), _remote())
    torch._foreach_add(a, b, alpha=2)
    torch._foreach_pow(2.0, a)
    for found in (torch._foreach_addcmul, torch._foreach_addcmul_, torch._foreach_addcdiv, torch._foreach_addcdiv_):
        found(several(), a, positive, value=0.5)
        found(several(), a, positive, [0.5, 1.5, 2.5, 3.5])
        found(several(), a, positive, torch.tensor([0.5, 1.5, 2.5, 3.5], device="remote"))
    torch._foreach_lerp(a, b, c)
    torch._foreach_lerp_(several(), b, 0.3)
    torch._foreach_copy_(several(), b)
    torch._foreach_copy_([_remote(6, 4).half(), _remote(6, 2)], [_remote(6, 4), _remote(2)])
    for order in (2, 1, 2.0, float("inf")):
        torch._foreach_norm(a, order)
    norms = torch._foreach_norm(a)
    torch.linalg.vector_norm(torch.stack(list(norms)))


def writes() -> None:
    x = _remote(6, 4)
    torch.add(x, _remote(6, 4), out=_remote(6, 4))
    torch.add(x, _remote(4), out=_remote(6, 4))
    torch.mm(x, _remote(4, 6), out=_remote(6, 6))
    torch.sum(x, 1, out=_remote(6))
    torch.cumsum(x, 0, out=_remote(6, 4))
    x.addmm_(_remote(6, 2), _remote(2, 4))
    torch.addmm(_remote(4), x, _remote(4, 4), beta=0.5, alpha=2)
    torch.addmm(_remote(6, 1), x, _remote(4, 4))
    torch.baddbmm(_remote(2, 1, 3), _remote(2, 6, 4), _remote(2, 4, 3))
    x.index_add_(0, torch.tensor([1, 2, 2], device="remote"), _remote(3, 4))
    x.scatter_(1, torch.tensor([[1, 2], [0, 1]] * 3, device="remote"), _remote(6, 2))
    x.index_put_((torch.tensor([1, 2, 2], device="remote"),), _remote(3, 4), accumulate=True)
    x.masked_fill_(x > 0, 2.0)
    x.clamp_(min=_remote(4))
    x[:, 1:3].copy_(_remote(6, 2))
    x.t().mul_(2)
    x[::2].zero_()
    y = _remote(2, 6, 6)
    y[:, torch.tensor([1, 2], device="remote")]
    y[torch.tensor([[1], [0]], device="remote"), :, torch.tensor([1, 2, 4], device="remote")]
    y[:, torch.tensor([1, 2], device="remote"), torch.tensor([3, 4], device="remote")] = _remote(2, 2)
    y[:, :, torch.tensor([1, 2], device="remote")] = 3.0


PROGRAMS: tuple[Callable[[], None], ...] = (
    language_model, optimizers, linears, attention, recurrent, embeddings, losses, images, lists, writes
)  # fmt: skip
