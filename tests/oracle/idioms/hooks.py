"""Hooks of tensors, modules, nodes and saved tensors, and exceptions that they raise."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from tests.oracle.idioms import data, grads, idiom, message, net


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
def saved_tensor_hooks(device: str) -> Any:
    x = data(device, 4).requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        y = (x * x).exp()
    y.sum().backward()
    return x.grad
