"""Where elements are in memory: strides of results and of gradients, and memory that nobody has written."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.oracle.idioms import data, idiom


@idiom
def strides_of_element_wise_results(device: str) -> Any:
    a, b = data(device, 4, 5, 3).mT, data(device, 4, 3, 5)
    c, three = data(device, 3, 5, 4).permute(2, 0, 1), torch.tensor(3.0, device=device)
    found = [
        f(x, y)
        for f in (torch.floor_divide, torch.logical_and, torch.xlogy, torch.copysign)
        for x, y in ((a, three), (b, c))
    ]
    rounded_down = torch.div(a, b, rounding_mode="floor")
    return [(x, x.stride()) for x in (*found, rounded_down, F.logsigmoid(a), torch.isin(a, b), torch.pow(2.0, a))]


@idiom
def strides_of_empty_tensors(device: str) -> Any:
    x = torch.ones(2, 0, 3, device=device)
    return [
        t.stride() for t in (x, x + 1, x.sum(2), x.transpose(0, 2).contiguous(), torch.empty(0, device=device), x[:, :, 0])
    ]


@idiom
def strides_of_transforms_and_factors(device: str) -> Any:
    x = data(device, 3, 4, 6)
    real = [x, x.mT.contiguous().mT, x.permute(2, 0, 1).contiguous().permute(1, 2, 0), x[:, ::2], data(device, 2, 1, 3)]
    dims = ((0,), (1,), (2,), (0, 1), (1, 2), (2, 0), (2, 1, 0))
    fft, found = torch.fft, []
    for a, dim in itertools.product([*real, *(torch.complex(r, r + 1) for r in real)], dims):
        found += [fft.fftn(a, dim=dim), fft.ifftn(a, dim=dim, norm="ortho"), fft.hfftn(a, s=[4] * len(dim), dim=dim)]
        found += [fft.irfftn(a.conj(), s=[3] * len(dim), dim=dim), *([] if a.is_complex() else [fft.rfftn(a, dim=dim)])]
    for a in (data(device, 3, 3), data(device, 2, 3, 3).mT, data(device, 0, 3, 3).mT):
        found += [*torch.linalg.svd(a), *torch.linalg.eig(a), *torch.linalg.qr(a), *torch.linalg.lu(a), torch.svd(a).V]
    return [(t.stride(), t.is_contiguous()) for t in found], found[:-30]


@idiom
def strides_of_results_with_dims_of_one_element(device: str) -> Any:
    """A norm and a convolution choose their order of additions by them."""
    layouts = [((1, 16, 4, 4), (16, 1, 64, 16)), ((1, 16, 4, 4), (7, 16, 4, 1)), ((1, 5), (1, 1)), ((5, 1), (1, 1))]
    layouts += [((2, 1, 3, 3), (9, 1, 3, 1)), ((1, 3, 2, 2), (3, 1, 6, 3)), ((2, 3, 4), (1, 8, 2)), ((1, 1, 4), (1, 1, 1))]
    sample = torch.arange(256, dtype=torch.int64).to(device)
    tensors = [sample.as_strided(size, stride) for size, stride in layouts]
    results = [
        [
            x + 1,
            1 - x,
            x * 2,
            x / 2,
            x.div(2, rounding_mode="floor"),
            x == 1,
            x >= 2,
            5 % (x + 1),
            x % 3,
            x & 1,
            x << 1,
            x * x,
        ]
        for x in tensors
    ]
    h = data(device, 1, 16, 16).transpose(-1, -2).reshape(1, 16, 4, 4)
    return [[r.stride() for r in rows] for rows in results], F.group_norm(h / 2 + 1, 4)


@idiom
def memory_that_is_filled_to_be_deterministic(device: str) -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        kinds = (torch.float32, torch.bfloat16, torch.complex64, torch.int64, torch.uint8, torch.bool)
        made = [torch.empty(2, 2, dtype=kind, device=device) for kind in kinds]
        x = data(device, 2, 3)
        made += [
            torch.empty_like(x),
            x.new_empty(2),
            torch.empty_strided((2, 2), (1, 2), device=device),
            torch.empty_like(x.T),
        ]
        made += [x.mul(2), torch.zeros(3, device=device), torch.empty(0, 2, device=device)]
    finally:
        torch.use_deterministic_algorithms(False)
    return made, [t.stride() for t in made]


@idiom
def strides_of_gradients_of_attention(device: str) -> Any:
    found = []
    for dropout, learned, dtype in itertools.product((0.0, 0.3), (False, True), (torch.float32, torch.bfloat16)):
        q, k, v = [data(device, 2, 3, 4, 8).to(dtype).requires_grad_() for _ in range(3)]
        mask = data(device, 4, 4).to(dtype).requires_grad_(learned)
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout)
        grads = torch.autograd.grad(out, [q, k, v], torch.ones_like(out))
        found.append([grad.stride() for grad in grads] + [repr(out).partition("grad_fn")[2]])
    return found


@idiom
def strides_of_gradients(device: str) -> Any:
    torch.manual_seed(0)
    modules = (
        nn.BatchNorm2d(4), nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.LogSoftmax(1), nn.ELU(), nn.Softplus(),
        nn.GLU(1), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"),
    )  # fmt: skip
    found: list[Any] = []
    for module in modules:
        for last in itertools.product((torch.contiguous_format, torch.channels_last), repeat=2):
            x = data(device, 2, 4, 6, 6).contiguous(memory_format=last[0]).requires_grad_()
            y = module.to(device)(x)
            (gradient,) = torch.autograd.grad(y, x, data(device, *y.shape).contiguous(memory_format=last[1]))
            found += [y, y.stride(), gradient, gradient.stride()]
        module.to("cpu")
    return found
