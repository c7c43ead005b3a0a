"""Gradients: backward, checkpointing, functions of a user's own, `torch.func`."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from tests.oracle.idioms import data, grads, idiom, message, net, rounded


@idiom
def backward(device: str) -> Any:
    m = net(device)
    m(data(device, 5, 4)).pow(2).sum().backward()
    return grads(m)


@idiom
def double_backward(device: str) -> Any:
    x = data(device, 5).requires_grad_()
    (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    g.pow(2).sum().backward()
    return g, x.grad


@idiom
def attention_of_one_tensor(device: str) -> Any:
    """Its three gradients are added up in an order that depends on the kernel."""
    found = []
    for dims, dropout, learned in itertools.product((3, 4), (0.0, 0.3), (False, True)):
        x = data(device, *(2, 3, 4, 8)[-dims:]).requires_grad_()
        mask = data(device, 4, 4).requires_grad_(learned)
        torch.manual_seed(0)
        out = F.scaled_dot_product_attention(x, x, x, mask, dropout_p=dropout) + x.sin()
        found.append(torch.autograd.grad(out.pow(2).sum(), [x, mask] if learned else [x]))
    return found


@idiom
def attention_by_a_chosen_kernel(device: str) -> Any:
    """`sdpa_kernel`: the one that the program wants, or its error where a CPU has none of them."""
    found: list[Any] = []
    learned = data(device, 4, 4).requires_grad_()
    options: list[dict[str, Any]] = [{}, {"is_causal": True}, {"attn_mask": learned}, {"dropout_p": 0.3}]
    kinds = (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
    for kind, given in itertools.product(kinds, options):
        x = data(device, 2, 3, 4, 8).requires_grad_()

        def attend(x: torch.Tensor = x, given: dict[str, Any] = given) -> None:
            torch.manual_seed(0)
            out = F.scaled_dot_product_attention(x, x * 2, x.sin(), **given)
            found.append(torch.autograd.grad(out.pow(2).sum(), x))

        with sdpa_kernel(kind):
            found.append(message(attend))
    return found


@idiom
def double_backward_through_attention(device: str) -> Any:
    x = data(device, 1, 2, 4, 8).double().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        scaled = x * 2
        out = F.scaled_dot_product_attention(x, scaled, scaled * x)
        (g,) = torch.autograd.grad(out.pow(2).sum(), x, create_graph=True)
        g.pow(2).sum().backward()
    return rounded(g), rounded(x.grad)


@idiom
def double_backward_through_dropout_in_attention(device: str) -> Any:
    """A second backward pass composes the call anew: with the dropout of the first, and no number drawn."""
    x = data(device, 1, 2, 4, 8).double().requires_grad_()
    torch.manual_seed(0)
    out = F.scaled_dot_product_attention(x, x * 2, x.sin(), dropout_p=0.5)
    torch.rand(3, device=device)
    (g,) = torch.autograd.grad(out.pow(2).sum(), x, create_graph=True)
    g.pow(2).sum().backward()
    return rounded(g), rounded(x.grad), torch.rand(2, device=device)


@idiom
def double_backward_through_recurrent_networks(device: str) -> Any:
    torch.manual_seed(0)
    found = []
    for cell in (nn.LSTMCell(2, 3), nn.GRUCell(2, 3), nn.RNNCell(2, 3)):
        cell.double().to(device)
        x = data(device, 3, 1, 2).double().requires_grad_()
        state = None
        for step in x:
            state = cell(step, state)
        out = state[0] if isinstance(state, tuple) else state
        gradients = torch.autograd.grad(out.sum(), [x, *cell.parameters()], create_graph=True)
        sum(g.pow(2).sum() for g in gradients).backward()
        found += [*map(rounded, gradients), *map(rounded, grads(cell)), rounded(x.grad)]
    return found


@idiom
def cells_whose_states_others_use(device: str) -> Any:
    torch.manual_seed(0)
    found = []
    for cell in (nn.LSTMCell(7, 9), nn.GRUCell(7, 9), nn.GRUCell(7, 9, bias=False), nn.RNNCell(7, 9)):
        cell.to(device)
        x, state, seen = data(device, 4, 5, 7).sin().requires_grad_(), None, []
        for step in x:
            state = cell(step, state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        (torch.stack(seen) * seen[0]).pow(2).sum().backward()
        found += [x.grad, *grads(cell)]
    return found


@idiom
def one_tensor_as_both_states_of_an_lstm(device: str) -> Any:
    torch.manual_seed(0)
    found = []
    for layer, sizes in ((nn.LSTM(7, 9), (1, 5)), (nn.LSTMCell(7, 9), (5,))):
        layer.to(device)
        state = data(device, *sizes, 9).cos().requires_grad_()
        x = data(device, *sizes, 7).sin()
        total = layer(x, (state, state))[0].pow(2).sum() + layer(x * 2, (state, state))[0].pow(3).sum()
        (total + state.pow(2).sum()).backward()
        found += [state.grad, *grads(layer)]
    return found


@idiom
def a_weights_memory_between_forward_and_backward(device: str) -> Any:
    def restore(w: nn.Parameter) -> None:
        kept, w.data = w.data, torch.empty(0, device=device)
        w.data = kept

    def add(w: nn.Parameter) -> None:
        w.data += 1

    found = []
    for change in (restore, add):
        m, x = net(device), data(device, 5, 4).requires_grad_()
        out = m(x).pow(2).sum()
        change(m[0].weight)
        out.backward()
        m[0].weight.data = torch.ones_like(m[0].weight)
        m(x).sum().backward()
        found += [x.grad, *grads(m)]
    return found


@idiom
def a_backward_after_an_optimizers_step(device: str) -> Any:
    said = []
    for variant in ({"foreach": False}, {"foreach": True}, {"fused": True}, {}):
        m = net(device)
        loss = m(data(device, 5, 4)).pow(2).sum()
        loss.backward(retain_graph=True)
        torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, **variant).step()
        said.append(message(loss.backward).split(":")[0])
    return said


@idiom
def no_grad_and_inference_mode(device: str) -> Any:
    m, x = net(device), data(device, 2, 4)
    with torch.no_grad():
        a = m(x)
    with torch.inference_mode():
        b = m(x) * 2
    return a, a.requires_grad, b, b.is_inference()


@idiom
def a_custom_function(device: str) -> Any:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            return 2 * ctx.saved_tensors[0] * g

    x = data(device, 4).requires_grad_()
    Square.apply(x).sum().backward()
    return x.grad


@idiom
def checkpoint_reentrant(device: str) -> Any:
    m, x = net(device), data(device, 2, 4).requires_grad_()
    checkpoint(m, x, use_reentrant=True).sum().backward()
    return grads(m), x.grad


@idiom
def checkpoint_with_dropout(device: str) -> Any:
    m = nn.Sequential(net(device), nn.Dropout(0.5))
    x = data(device, 8, 4).requires_grad_()
    torch.manual_seed(3)
    checkpoint(m, x, use_reentrant=False).sum().backward()
    return grads(m), x.grad


@idiom
def func_grad_and_vmap(device: str) -> Any:
    x = data(device, 5, 3)
    f = lambda v: (v**3).sum()
    return torch.func.grad(f)(x), torch.func.vmap(torch.func.grad(f))(x), torch.func.jacrev(torch.sin)(x[0])


@idiom
def func_jvp_and_hessian(device: str) -> Any:
    x = data(device, 3)
    return torch.func.jvp(torch.sin, (x,), (torch.ones_like(x),)), torch.func.hessian(lambda v: (v**3).sum())(x)


@idiom
def functional_call(device: str) -> Any:
    m = net(device)
    parameters = {k: v * 2 for k, v in m.named_parameters()}
    return torch.func.functional_call(m, parameters, (data(device, 2, 4),))


@idiom
def in_place_through_autograd(device: str) -> Any:
    x = data(device, 4).requires_grad_()
    y = x * 1
    y[1:3] *= 2
    y.add_(1)
    y.pow(2).sum().backward()
    return y, x.grad


@idiom
def load_state_dict_and_cast_while_a_graph_lives(device: str) -> Any:
    m = net(device)
    out = m(data(device, 2, 4)).sum()
    m.load_state_dict({name: value * 2 for name, value in m.state_dict().items()})
    m.to(device).double()
    return out, list(m.parameters())


@idiom
def clipping(device: str) -> Any:
    m = net(device)
    m(data(device, 2, 4)).pow(2).sum().backward()
    return nn.utils.clip_grad_norm_(m.parameters(), 0.5), grads(m)


@idiom
def changed_since_it_was_saved(device: str) -> Any:
    def run() -> None:
        x = data(device, 3, 4).requires_grad_()
        y = x * 1
        out = (y * y).sum()
        y += 1
        out.backward()

    return message(run)


@idiom
def layers_without_features(device: str) -> Any:
    found = []
    for inputs, outputs, shape in itertools.product((0, 5), (0, 3), ((), (2,), (2, 3))):
        weight = data(device, outputs, inputs).requires_grad_()
        x = data(device, *shape, inputs).requires_grad_()
        first = torch.autograd.grad(F.linear(x, weight).pow(2).sum(), [x, weight], create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(g.pow(2).sum() for g in first), [x, weight])])
    return found
