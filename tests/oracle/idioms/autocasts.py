"""Autocast: what it casts, and what trains under it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.oracle.idioms import data, grads, idiom, net


@idiom
def autocast(device: str) -> Any:
    m, x = net(device), data(device, 2, 4)
    with torch.autocast(device, torch.bfloat16):
        out = m(x)
        loss = F.cross_entropy(out, torch.tensor([0, 1], device=device))
    loss.backward()
    return out, loss, grads(m)


@idiom
def autocast_of_a_weight_that_is_used_twice(device: str) -> Any:
    """Its gradients are accumulated in the short dtype: the cast is cached until the region ends."""
    torch.manual_seed(0)
    m, x = nn.Linear(4, 4).to(device), data(device, 6, 4)
    with torch.autocast(device, torch.bfloat16):
        with torch.no_grad():
            m(x)
        loss = m(m(x)).pow(2).sum()
    loss.backward()
    return loss, grads(m)


@idiom
def grad_scaler(device: str) -> Any:
    m = net(device)
    optimizer, scaler = torch.optim.SGD(m.parameters(), 0.1), torch.amp.GradScaler(device, init_scale=4.0)
    scaler.scale(m(data(device, 2, 4)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    return list(m.parameters()), scaler.get_scale()


def _runs_under_autocast(kind: type[nn.Module]) -> bool:
    """PyTorch has no bfloat16 LSTM for CPUs without AVX-512: there is nothing to compare with there."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            kind(4, 4)(torch.zeros(1, 1, 4))
    except RuntimeError:
        return False
    return True


@idiom
def recurrent_modules_under_autocast(device: str) -> Any:
    found: list[Any] = []
    for kind in filter(_runs_under_autocast, (nn.LSTM, nn.GRU, nn.RNN)):
        torch.manual_seed(0)
        m = kind(4, 4, batch_first=True, bidirectional=True).to(device)
        with torch.autocast(device, torch.bfloat16):
            half, whole = (
                m(nn.functional.linear(data(device, 2, 3, 4), torch.eye(4, device=device))),
                m(data(device, 2, 3, 4)),
            )
            (half[0].float().sum() + whole[0].float().pow(2).sum()).backward()
        found += [half, whole, half[0].dtype, [g.norm().round(decimals=1) for g in grads(m)]]
    return found


@idiom
def cells_and_bilinear_under_autocast(device: str) -> Any:
    found: list[Any] = []
    for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.Bilinear):
        torch.manual_seed(0)
        m, x = kind(*(8, 8, 5) if kind is nn.Bilinear else (8, 6)).to(device), data(device, 4, 8).requires_grad_()
        with torch.autocast(device, torch.bfloat16):
            made = m(x, x) if kind is nn.Bilinear else m(x)
        outs = made if isinstance(made, tuple) else (made,)
        sum(out.float().pow(2).sum() for out in outs).backward()
        found += [outs, x.grad, grads(m)]
    return found


@idiom
def prelu_under_autocast(device: str) -> Any:
    with torch.autocast(device, torch.bfloat16):
        y = nn.PReLU(3).to(device)(nn.functional.conv1d(data(device, 2, 3, 4), torch.ones(3, 3, 1, device=device)))
    return y, y.dtype
