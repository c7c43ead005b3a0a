"""Recurrent networks, their cells, and packed sequences."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from tests.oracle.idioms import data, grads, idiom, rounded


def _recurrent(kind: type[nn.RNNBase], device: str, **options: Any) -> Any:
    torch.manual_seed(0)
    m = kind(4, 6, 2, **options).to(device)
    x = data(device, 5, 3, 4).requires_grad_()
    out, state = m(x)
    out.pow(2).sum().backward()
    return out, state, x.grad, grads(m)


@idiom
def rnn(device: str) -> Any:
    return _recurrent(nn.RNN, device)


@idiom
def dropout_inside_recurrent_networks(device: str) -> Any:
    """Where they are decomposed: under a transform, in a second backward pass, and most of them under autocast."""
    found: list[Any] = []
    for kind, bidirectional in itertools.product((nn.RNN, nn.GRU, nn.LSTM), (False, True)):
        torch.manual_seed(0)
        network = kind(4, 6, 3, dropout=0.5, bidirectional=bidirectional).double().to(device)
        weights = {name: p.detach() for name, p in network.named_parameters()}
        x = data(device, 5, 3, 4).double().requires_grad_()

        def loss(weights: Any, network: nn.Module = network, x: torch.Tensor = x) -> torch.Tensor:
            return torch.func.functional_call(network, weights, (x,))[0].pow(2).sum()

        torch.manual_seed(1)
        found.append([rounded(g) for g in torch.func.grad(loss)(weights).values()])
        out = network(x)[0]
        (first,) = torch.autograd.grad(out.pow(2).sum(), x, create_graph=True)
        first.pow(2).sum().backward()
        with torch.autocast(device):
            cast = network.float()(data(device, 5, 3, 4))[0]
        found += [rounded(first), rounded(x.grad), cast, torch.rand(2, device=device)]
    return found


@idiom
def recurrent_networks_without_gradients(device: str) -> Any:
    """Their weights still require gradients, on which the choice of kernel depends."""
    torch.manual_seed(0)
    found = []
    for kind, layers in itertools.product((nn.RNN, nn.GRU, nn.LSTM), (1, 2)):
        network = kind(4, 6, layers, batch_first=True, dropout=0.1 * (layers - 1)).eval().to(device)
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                found.append(network(data(device, 3, 5, 4)))
        found.append(network.requires_grad_(False)(data(device, 3, 5, 4)))
    return found


@idiom
def lstm(device: str) -> Any:
    return _recurrent(nn.LSTM, device, bidirectional=True)


@idiom
def gru(device: str) -> Any:
    return _recurrent(nn.GRU, device)


@idiom
def recurrent_cells(device: str) -> Any:
    torch.manual_seed(0)
    cells = nn.LSTMCell(4, 6).to(device), nn.GRUCell(4, 6).to(device)
    x = data(device, 3, 4)
    h, c = cells[0](x)
    g = cells[1](x)
    (h.sum() + c.sum() + g.sum()).backward()
    return h, c, g, grads(cells[0]), grads(cells[1])


@idiom
def recurrent_cells_in_double(device: str) -> Any:
    """A product accumulated onto the bias rounds differently from one to which the bias is added."""
    torch.manual_seed(0)
    cells = (
        nn.LSTMCell(1, 11).double().to(device),
        nn.GRUCell(1, 11).double().to(device),
        nn.RNNCell(1, 11).double().to(device),
    )
    h = c = g = r = torch.zeros(5, 11, dtype=torch.double, device=device)
    for x in data(device, 5, 3).double().split(1, dim=1):
        (h, c), g, r = cells[0](x, (h, c)), cells[1](x, g), cells[2](x, r)
    (h.sum() + c.sum() + g.sum() + r.sum()).backward()
    return h, c, g, r, [grads(cell) for cell in cells]


@idiom
def packed_sequences(device: str) -> Any:
    torch.manual_seed(0)
    m = nn.LSTM(4, 6).to(device)
    packed = nn.utils.rnn.pack_padded_sequence(data(device, 5, 3, 4), torch.tensor([5, 3, 2]))
    out, _ = m(packed)
    padded, lengths = nn.utils.rnn.pad_packed_sequence(out)
    return padded, lengths
