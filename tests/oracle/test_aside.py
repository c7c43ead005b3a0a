"""The client's own computations are neither seen nor changed by modes that a program has switched on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

import gt
from gt.client.stream.definitions import definitions
from tests.oracle.operators import compare

Tensor = torch.Tensor


def tensors(*sizes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for size in sizes]


def attend(query: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, query, query)


def recur(given: Tensor) -> Tensor:
    weight = torch.cat([given.reshape(-1, 4), given[0]])[:8]
    state = given.new_zeros(1, 3, 2)
    return torch.lstm(given, (state, state), (weight, weight[:, :2]), False, 1, 0.0, True, False, False)[0]


def transform(given: Tensor) -> Tensor:
    return F.linear(given, given[0, :2])


COMPOSITES = {"attention": attend, "lstm": recur, "linear": transform}
"""Operators that are not inferred by running them on meta tensors, or have a backward pass of GT's own."""


def gradient(function: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    leaf = given.detach().requires_grad_()
    (found,) = torch.autograd.grad(function(leaf).pow(2).sum(), leaf)
    return found


@pytest.fixture(autouse=True)
def nothing_is_known() -> None:
    definitions.forget()


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_trace_holds_operations_and_eager_code_goes_on_with_the_tensors_that_it_has_seen(name: str) -> None:
    one, other = tensors((2, 3, 4), (2, 3, 4))
    here, there = one, one.to("remote")
    traced = torch.jit.trace(COMPOSITES[name], there)
    for given in (other, one):
        torch.testing.assert_close(traced(given.to("remote")).cpu(), COMPOSITES[name](given))
    assert torch.equal(COMPOSITES[name](there).cpu(), COMPOSITES[name](here))
    assert torch.equal(gradient(COMPOSITES[name], there).cpu(), gradient(COMPOSITES[name], here))


def test_a_traced_convolution_computes_with_other_inputs_and_with_its_weight_as_it_becomes() -> None:
    def run(device: str) -> list[Any]:
        torch.manual_seed(0)
        with torch.device("cpu"):
            layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
        layer, given = layer.to(device), [t.to(device) for t in tensors((1, 3, 8, 8), (1, 3, 8, 8))]
        traced = torch.jit.trace(layer, given[0], check_trace=False)
        traced(given[1]).sum().backward()
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
        return [traced(given[1]), layer(given[0]), layer(given[1]), [p.grad for p in layer.parameters()]]

    for a, b in zip(tree_leaves(run("cpu")), tree_leaves(run("remote")), strict=True):
        assert torch.equal(a, b.cpu())


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_graph_of_a_backward_pass_holds_operations(name: str) -> None:
    one, other = (t.to("remote") for t in tensors((2, 3, 4), (2, 3, 4)))
    graph = make_fx(lambda given: gradient(COMPOSITES[name], given))(one)
    torch.testing.assert_close(graph(other), gradient(COMPOSITES[name], other))
    assert "meta" not in graph.code


@pytest.mark.parametrize("name", COMPOSITES)
def test_fakes_of_the_device_go_where_its_tensors_go(name: str) -> None:
    (one,) = tensors((2, 3, 4))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        given = mode.from_tensor(one.to("remote"))
        made = [COMPOSITES[name](given), gradient(COMPOSITES[name], given)]
    assert [t.shape for t in made] == [COMPOSITES[name](one).shape, one.shape]
    assert {t.device.type for t in made} == {"remote"}


@pytest.mark.parametrize("name", COMPOSITES)
def test_hooks_on_what_autograd_saves_are_handed_no_stand_ins(name: str) -> None:
    (one,) = tensors((2, 3, 4))
    seen: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = gradient(COMPOSITES[name], one.to("remote"))
    assert torch.equal(found.cpu(), gradient(COMPOSITES[name], one))
    assert {(type(t), t.device.type) for t in seen} <= {(Tensor, "remote"), (torch.nn.Parameter, "remote")}


@pytest.mark.parametrize("name", COMPOSITES)
def test_anomalies_are_looked_for_in_gradients_alone(name: str) -> None:
    (one,) = tensors((2, 3, 4))
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        found = gradient(COMPOSITES[name], one.to("remote"))
    assert torch.equal(found.cpu(), gradient(COMPOSITES[name], one))


@pytest.mark.parametrize("name", COMPOSITES)
def test_the_cpus_autocast_casts_nothing_of_another_device(name: str) -> None:
    (one,) = tensors((2, 3, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = COMPOSITES[name](one.to("remote"))
        assert gt.cdist(one.to("remote"), one.to("remote")).dtype is torch.float32
    assert torch.equal(found.cpu(), COMPOSITES[name](one))


@pytest.mark.parametrize("where", ["remote", "meta", "cpu"])
def test_a_default_device_places_what_the_program_makes_and_nothing_else(where: str) -> None:
    (one,) = tensors((2, 3, 4))
    scripted = torch.jit.script(_number)
    expected = [_number(one), *(run(one) for run in COMPOSITES.values())]
    remote = one.to("remote").requires_grad_()
    leaves = [one.detach().requires_grad_(), remote]
    with torch.device(where):
        compare(expected, [scripted(remote), *(run(remote) for run in COMPOSITES.values())])
        a, b = (torch.autograd.grad(attend(leaf).sum(), leaf)[0] for leaf in leaves)
    assert torch.equal(a, b.cpu())


def _number(given: Tensor) -> int:
    """Scripted, it fetches a number from C++, bypassing Python."""
    return int(given.sum())


def test_a_gradient_is_traced_through_a_linear_layer() -> None:
    weight, one, other = tensors((5, 4), (3, 4), (3, 4))

    def run(device: str) -> list[Tensor]:
        held = weight.to(device)
        traced = torch.jit.trace(lambda given: gradient_of(given, held), one.to(device), check_trace=False)
        return [traced(other.to(device)), gradient(lambda given: F.linear(given, held), one.to(device))]

    def gradient_of(given: Tensor, held: Tensor) -> Tensor:
        leaf = given.detach().requires_grad_()
        return torch.autograd.grad(F.linear(leaf, held).sum(), leaf)[0]

    for a, b in zip(run("cpu"), run("remote"), strict=True):
        torch.testing.assert_close(b.cpu(), a)
