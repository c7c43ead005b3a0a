"""Gradients: backward, hooks and their exceptions, checkpointing, autocast, `torch.func`."""

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
def how_gradients_of_attention_lie(device: str) -> Any:
    found = []
    for dropout, learned, dtype in itertools.product((0.0, 0.3), (False, True), (torch.float32, torch.bfloat16)):
        q, k, v = [data(device, 2, 3, 4, 8).to(dtype).requires_grad_() for _ in range(3)]
        mask = data(device, 4, 4).to(dtype).requires_grad_(learned)
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout)
        grads = torch.autograd.grad(out, [q, k, v], torch.ones_like(out))
        found.append([grad.stride() for grad in grads] + [repr(out).partition("grad_fn")[2]])
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
def tensor_hooks(device: str) -> Any:
    seen = []
    x = data(device, 3).requires_grad_()
    y = x * 2
    y.register_hook(lambda g: seen.append(g.clone()))
    y.register_hook(lambda g: g * 10)
    y.sum().backward()
    return seen, x.grad


@idiom
def module_hooks(device: str) -> Any:
    m, seen = net(device), []
    m[0].register_forward_hook(lambda mod, i, o: o + 1)
    m[0].register_forward_pre_hook(lambda mod, i: (i[0] * 2,))
    m[2].register_full_backward_hook(lambda mod, gi, go: seen.append(go[0].clone()))
    out = m(data(device, 2, 4))
    out.sum().backward()
    return out, seen, grads(m)


@idiom
def post_accumulate_grad_hook(device: str) -> Any:
    m, seen = net(device), []
    m[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    m(data(device, 2, 4)).sum().backward()
    return seen


def _fail(*_: Any) -> Any:
    raise KeyError("from a hook")


@idiom
def a_tensor_hook_that_raises(device: str) -> Any:
    x = data(device, 3).requires_grad_()
    y = x * 2
    y.register_hook(_fail)
    return message(lambda: y.sum().backward()), (x * 1).sum()


@idiom
def a_module_hook_that_raises(device: str) -> Any:
    m = net(device)
    m[2].register_full_backward_hook(_fail)
    return message(lambda: m(data(device, 2, 4)).sum().backward())


@idiom
def a_post_accumulate_hook_that_raises(device: str) -> Any:
    m = net(device)
    m[0].bias.register_post_accumulate_grad_hook(_fail)
    return message(lambda: m(data(device, 2, 4)).sum().backward())


@idiom
def a_saved_tensor_hook_that_raises(device: str) -> Any:
    x = data(device, 3).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, _fail):
        y = x * x
    return message(lambda: y.sum().backward())


@idiom
def hooks_of_nodes(device: str) -> Any:
    x = data(device, 3).requires_grad_()
    y = x * 2
    node, leaf = y.grad_fn, y.grad_fn.next_functions[0][0]
    node.register_hook(lambda inputs, outputs: tuple(g if g is None else g * 3 for g in inputs))
    removed = node.register_prehook(_fail)
    leaf.register_prehook(lambda outputs: (outputs[0] * 7,))
    removed.remove()
    y.sum().backward()
    return x.grad, node is y.grad_fn


@idiom
def hooks_of_nodes_that_raise(device: str) -> Any:
    class Copy(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.clone())
        backward = staticmethod(lambda ctx, g: g)

    found = []
    for make in (lambda x: x * 2, Copy.apply):
        for node_of in (lambda y: y.grad_fn, lambda y: y.grad_fn.next_functions[0][0]):
            for register in ("register_hook", "register_prehook"):
                y = make(data(device, 3).requires_grad_())
                getattr(node_of(y), register)(_fail)
                found.append(message(lambda y=y: y.sum().backward()))
    return found


@idiom
def hooks_that_return_nonsense(device: str) -> Any:
    found = []
    for nonsense in ("no", 3, (), ("a",), ("a", None), [None, None]):
        for register in (
            lambda x, y, hook: y.register_hook(hook),
            lambda x, y, hook: y.grad_fn.register_hook(hook),
            lambda x, y, hook: y.grad_fn.register_prehook(hook),
            lambda x, y, hook: x.register_post_accumulate_grad_hook(hook),
        ):
            x = data(device, 3).requires_grad_()
            y = x * 2
            register(x, y, lambda *_, value=nonsense: value)
            found.append(message(lambda y=y: y.sum().backward()))
    return found


@idiom
def a_hook_that_raises_inside_a_nested_backward(device: str) -> Any:
    class Nested(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                y = data(device, 3).requires_grad_() * 2
                y.register_hook(_fail)
                return g * len(message(lambda: y.sum().backward()))

    x = data(device, 3).requires_grad_()
    Nested.apply(x).sum().backward()
    return x.grad


@idiom
def a_hook_that_raises_where_the_engine_has_changed_threads(device: str) -> Any:
    def nested(x: torch.Tensor, depth: int) -> torch.Tensor:
        if depth:
            return checkpoint(nested, x * 1, depth - 1, use_reentrant=True)
        if x.requires_grad:
            x.register_hook(_fail)
        return x * 2

    x = data(device, 3).requires_grad_()
    return message(lambda: nested(x, 70).sum().backward())


@idiom
def hooks_of_results_that_nobody_used(device: str) -> Any:
    torch.manual_seed(0)
    cell = torch.nn.LSTMCell(3, 4).to(device)
    layer = torch.nn.LSTM(3, 4).to(device)
    called = []
    for made, name in ((cell(data(device, 2, 3)), "cell"), (layer(data(device, 5, 2, 3))[1], "layer")):
        for tensor, part in zip(made, "hc", strict=True):
            tensor.register_hook(lambda g, what=name + part: called.append((what, g)))
        made[1].sum().backward()
    used, unused = data(device, 2, 3).requires_grad_().unbind(0)
    unused.register_hook(lambda g: called.append(("unbound", g)))
    unused.register_hook(_fail)
    return called, message(lambda: used.sum().backward())


@idiom
def hooks_of_one_saved_tensor(device: str) -> Any:
    x = data(device, 3).requires_grad_()
    y, z = x * x, x * x
    y.grad_fn._raw_saved_self.register_hooks(lambda t: t.cpu(), lambda t: t.to(device) * 2)
    z.grad_fn._raw_saved_self.register_hooks(lambda t: t, _fail)
    y.sum().backward()
    return x.grad, message(lambda: z.sum().backward())


@idiom
def a_function_whose_backward_raises(device: str) -> Any:
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            raise KeyError("from backward")

    return message(lambda: Bad.apply(data(device, 3).requires_grad_()).sum().backward())


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
def saved_tensor_hooks(device: str) -> Any:
    x = data(device, 4).requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        y = (x * x).exp()
    y.sum().backward()
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
