"""`linear` as one instruction: results and gradients bit-equal to the CPU's in every layout, and differentiable again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.functional import linear

import gt
from tests.oracle import operators

Tensors = tuple[torch.Tensor, ...]


def _data(
    shape: tuple[int, ...], layout: str, weight_shape: tuple[int, ...], bias: bool, dtype: torch.dtype
) -> list[torch.Tensor]:
    torch.manual_seed(sum(shape))
    x = torch.randn(shape, dtype=dtype)
    if layout == "transposed":
        x = torch.randn(shape[::-1], dtype=dtype).permute(*reversed(range(len(shape))))
    elif layout == "padded":
        x = torch.randn(*shape[:-1], shape[-1] + 3, dtype=dtype)[..., : shape[-1]]
    weight = torch.randn(weight_shape, dtype=dtype)
    return [x, weight, *([torch.randn(weight_shape[:-1], dtype=dtype)] if bias else [])]


def _leaves(tensors: list[torch.Tensor], device: str, frozen: int | None) -> list[torch.Tensor]:
    moved = [t.detach() if device == "cpu" else operators.to_remote(t) for t in tensors]
    assert [t.stride() for t in moved] == [t.stride() for t in tensors]
    return [t.requires_grad_(i != frozen) for i, t in enumerate(moved)]


CASES = [
    ((6, 5), "row", (7, 5), torch.float32),
    ((6, 5), "transposed", (7, 5), torch.float32),
    ((1, 1), "row", (3, 1), torch.float32),
    ((2, 3, 5), "row", (7, 5), torch.float32),
    ((2, 3, 5), "transposed", (7, 5), torch.float32),
    ((2, 3, 5), "padded", (7, 5), torch.float32),
    ((2, 2, 3, 64), "row", (130, 64), torch.float32),
    ((5,), "row", (7, 5), torch.float32),
    ((4, 5), "row", (5,), torch.float32),
    ((0, 5), "row", (7, 5), torch.float32),
    ((3, 5), "row", (0, 5), torch.float32),
    ((2, 3, 0), "row", (7, 0), torch.float32),
    ((33, 64), "row", (48, 64), torch.bfloat16),
    ((3, 5), "row", (4, 5), torch.complex64),
]


@pytest.mark.parametrize("frozen", [None, 0, 1])
@pytest.mark.parametrize(
    ("shape", "layout", "weight", "dtype", "bias"),
    [(*case, bias) for case in CASES for bias in (False, True) if len(case[2]) == 2 or not bias],  # PyTorch has no others
)
def test_values_and_gradients_are_the_cpus_to_the_bit(
    shape: tuple[int, ...], layout: str, weight: tuple[int, ...], dtype: torch.dtype, bias: bool, frozen: int | None
) -> None:
    data = _data(shape, layout, weight, bias, dtype)
    found = {}
    for device in ("cpu", "remote"):
        leaves = _leaves(data, device, frozen)
        out = linear(*leaves)
        cotangent = torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(dtype).to(device)
        out.backward(cotangent)
        with torch.no_grad():
            unwatched = linear(*leaves)
        with torch.inference_mode():
            inferred = linear(*leaves)
        found[device] = [
            out.detach().cpu(),
            unwatched.cpu(),
            inferred.cpu(),
            *(t.grad.cpu() for t in leaves if t.grad is not None),
        ]
        assert [t.grad is not None for t in leaves] == [t.requires_grad for t in leaves]
    for a, b in zip(found["cpu"], found["remote"], strict=True):
        assert torch.equal(a, b)


def _same(function: Callable[..., Tensors]) -> None:
    data = _data((3, 4, 5), "row", (7, 5), True, torch.float32)
    expected, got = function(*_leaves(data, "cpu", None)), function(*_leaves(data, "remote", None))
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b.detach().cpu(), a.detach())


def test_a_gradient_is_differentiated_again() -> None:
    def penalty(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Tensors:
        out = torch.tanh(linear(x, weight, bias)).sum()
        first = torch.autograd.grad(out, [x, weight, bias], create_graph=True)
        return torch.autograd.grad(sum((g * g).sum() for g in first), [x, weight, bias])

    _same(penalty)


def test_forward_mode_knows_it() -> None:
    def tangent(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Tensors:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x.detach(), torch.ones_like(x))
            result = forward_ad.unpack_dual(linear(dual, weight.detach(), bias.detach()))
        return result.primal, result.tangent, linear(x, weight)

    _same(tangent)


def test_it_is_transformed_by_torch_func() -> None:
    def hessian(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Tensors:
        loss = lambda w: torch.tanh(linear(x.detach(), w, bias.detach())).sum()
        per_sample = torch.func.vmap(torch.func.grad(lambda w, row: linear(row, w).sin().sum()), (None, 0))
        return torch.func.hessian(loss)(weight.detach()), per_sample(weight.detach(), x.detach())

    _same(hessian)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
def test_what_a_frozen_or_a_trained_weight_keeps_for_the_backward_pass_is_pytorchs(
    shape: tuple[int, ...], bias: bool
) -> None:
    def kept(device: str, frozen: int | None) -> set[tuple[int, ...]]:
        leaves, saved = _leaves(_data(shape, "row", (7, 5), bias, torch.float32), device, frozen), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
            linear(*leaves)
        return {tuple(sorted(t.shape)) for t in saved}

    kept("remote", 1)  # whatever the process has met before
    assert kept("remote", 1) == kept("cpu", 1) == {(5, 7)}
    assert kept("remote", None) == {tuple(sorted(shape)), (5, 7)}


def test_the_worker_keeps_the_input_of_a_trained_weight_only() -> None:
    def kept(is_trained: bool) -> int:
        x = torch.ones(256, 1024, device="remote", requires_grad=True)
        weight = torch.ones(256, 1024, device="remote", requires_grad=is_trained)
        before = gt.debug.stats().tensor_bytes
        out = linear(x * 2, weight)
        return gt.debug.stats().tensor_bytes - before - out.nbytes

    kept(False)
    assert (kept(False), kept(True)) == (0, 256 * 1024 * 4)


def test_a_backward_pass_refuses_a_weight_whose_memory_was_replaced() -> None:
    def replace(m: torch.nn.Linear) -> None:
        m.weight.data = torch.ones_like(m.weight)

    def often(m: torch.nn.Linear) -> None:
        for _ in range(40):
            replace(m)

    for change in (replace, often, torch.nn.Linear.double):
        m, x = torch.nn.Linear(3, 3).to("remote"), torch.ones(2, 3, device="remote", requires_grad=True)
        out = m(x).sum()
        change(m)
        with pytest.raises(RuntimeError, match=r"weight was replaced .* Call backward\(\) before that"):
            out.backward()
