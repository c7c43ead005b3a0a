"""Idioms of PyTorch users. Each is a function of a device that returns tensors and values, the same on every device."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

Idiom = Callable[[str], Any]
IDIOMS: dict[str, Idiom] = {}


def idiom(function: Idiom) -> Idiom:
    IDIOMS[function.__name__] = function
    return function


def net(device: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(device)


def data(device: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(device)


def grads(module: nn.Module) -> list[torch.Tensor | None]:
    return [p.grad for p in module.parameters()]


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
def double_backward_through_attention(device: str) -> Any:
    x = data(device, 1, 2, 4, 8).requires_grad_()
    out = F.scaled_dot_product_attention(x, x, x, attn_mask=torch.zeros(4, 4, device=device), dropout_p=0.0)
    (g,) = torch.autograd.grad(out.pow(2).sum(), x)
    return out, g


@idiom
def attention_with_a_scale(device: str) -> Any:
    x = data(device, 1, 2, 4, 8).requires_grad_()
    outs = [F.scaled_dot_product_attention(x, x, x, dropout_p=0.0, is_causal=True, scale=s) for s in (0.3, 0.7, None)]
    return outs, torch.autograd.grad(sum(out.pow(2).sum() for out in outs), x)


@idiom
def attention_with_and_without_dropout(device: str) -> Any:
    """The two take kernels whose gradients lie differently in memory."""
    torch.manual_seed(0)
    found = []
    for p in (0.5, 0.0, 0.5):
        x = data(device, 2, 10, 4, 8).requires_grad_()
        q, k, v = x.transpose(1, 2), (x * 2).transpose(1, 2).contiguous(), (x + 1).transpose(1, 2).contiguous()
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        out.transpose(1, 2).reshape(2, 10, 32).pow(2).sum().backward()
        found.append(x.grad)
    return found


@idiom
def norms_of_short_floats(device: str) -> Any:
    norms = (nn.LayerNorm(6), nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4).eval(), nn.InstanceNorm1d(4))
    shorts = (torch.float16, torch.bfloat16)
    found = []
    for norm, dtype, kept in itertools.product(norms, shorts, (*shorts, torch.float32)):
        if kept in (dtype, torch.float32):
            norm = copy.deepcopy(norm).to(device, kept)
            x = data(device, 3, 4, 6).to(dtype).requires_grad_()
            out = norm(x)
            out.pow(2).sum().backward()
            found += [out, x.grad, *grads(norm), *norm.buffers()]
    return found


@idiom
def state_dict_round_trip(device: str) -> Any:
    a, b = net(device), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(device)
    b.load_state_dict(a.state_dict())
    return b(data(device, 2, 4))


@idiom
def save_and_load(device: str) -> Any:
    file = io.BytesIO()
    m = net(device)
    torch.save({"model": m.state_dict(), "view": m[0].weight.detach()[1:, 2:]}, file)
    file.seek(0)
    there = torch.load(file)
    file.seek(0)
    here = torch.load(file, map_location="cpu")
    return there["model"]["0.weight"], there["view"], here["model"]["2.bias"], here["model"]["0.weight"].device.type == "cpu"


@idiom
def pickled_and_saved_in_the_old_format(device: str) -> Any:
    x, file = data(device, 6), io.BytesIO()
    torch.save([x, x[::2], x.long()], file, _use_new_zipfile_serialization=False)
    file.seek(0)
    there = torch.load(file)
    file.seek(0)
    return there, torch.load(file, map_location="cpu"), pickle.loads(pickle.dumps({"x": x, "p": nn.Parameter(x[1:])}))


@idiom
def saved_views_share_a_storage(device: str) -> Any:
    base = data(device, 6)
    file = io.BytesIO()
    torch.save([base, base[2:4]], file)
    file.seek(0)
    a, b = torch.load(file)
    b.fill_(7)
    return a, b


@idiom
def no_grad_and_inference_mode(device: str) -> Any:
    m, x = net(device), data(device, 2, 4)
    with torch.no_grad():
        a = m(x)
    with torch.inference_mode():
        b = m(x) * 2
    return a, a.requires_grad, b, b.is_inference()


@idiom
def device_as_a_context(device: str) -> Any:
    with torch.device(device):
        return torch.ones(3) + torch.arange(3), torch.ones(1).device.type == device


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


def _message(run: Callable[[], Any]) -> str:
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def _fail(*_: Any) -> Any:
    raise KeyError("from a hook")


@idiom
def a_tensor_hook_that_raises(device: str) -> Any:
    x = data(device, 3).requires_grad_()
    y = x * 2
    y.register_hook(_fail)
    return _message(lambda: y.sum().backward()), (x * 1).sum()


@idiom
def a_module_hook_that_raises(device: str) -> Any:
    m = net(device)
    m[2].register_full_backward_hook(_fail)
    return _message(lambda: m(data(device, 2, 4)).sum().backward())


@idiom
def a_post_accumulate_hook_that_raises(device: str) -> Any:
    m = net(device)
    m[0].bias.register_post_accumulate_grad_hook(_fail)
    return _message(lambda: m(data(device, 2, 4)).sum().backward())


@idiom
def a_saved_tensor_hook_that_raises(device: str) -> Any:
    x = data(device, 3).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, _fail):
        y = x * x
    return _message(lambda: y.sum().backward())


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
                found.append(_message(lambda y=y: y.sum().backward()))
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
            found.append(_message(lambda y=y: y.sum().backward()))
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
                return g * len(_message(lambda: y.sum().backward()))

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
    return _message(lambda: nested(x, 70).sum().backward())


@idiom
def hooks_of_one_saved_tensor(device: str) -> Any:
    x = data(device, 3).requires_grad_()
    y, z = x * x, x * x
    y.grad_fn._raw_saved_self.register_hooks(lambda t: t.cpu(), lambda t: t.to(device) * 2)
    z.grad_fn._raw_saved_self.register_hooks(lambda t: t, _fail)
    y.sum().backward()
    return x.grad, _message(lambda: z.sum().backward())


@idiom
def a_function_whose_backward_raises(device: str) -> Any:
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            raise KeyError("from backward")

    return _message(lambda: Bad.apply(data(device, 3).requires_grad_()).sum().backward())


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
    """Its gradients add up in the short dtype: the cast is kept until the region ends."""
    torch.manual_seed(0)
    m, x = nn.Linear(4, 4).to(device), data(device, 6, 4)
    with torch.autocast(device, torch.bfloat16):
        with torch.no_grad():
            m(x)
        loss = m(m(x)).pow(2).sum()
    loss.backward()
    return loss, grads(m)


@idiom
def dropout_of_short_floats(device: str) -> Any:
    found = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x, g = data(device, 8, 8).to(dtype).requires_grad_(), data(device, 8, 8).to(dtype)
        torch.manual_seed(0)
        out = F.dropout(x, 0.1)
        out.backward(g)
        found += [out, x.grad]
    return found


@idiom
def an_encoder_that_leaves_out_padding(device: str) -> Any:
    """PyTorch takes nested tensors for it; what it computes is the same but for the last digits."""
    torch.manual_seed(0)
    layer, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), data(device, 3, 5, 16)
    m = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16)).to(device).eval()
    padding = torch.arange(5, device=device) >= torch.tensor([[5], [4], [2]], device=device)
    with torch.no_grad():
        found = m(x, src_key_padding_mask=padding), m(x, src_key_padding_mask=padding.float() * -1e9)
        attended, weights = m.layers[0].self_attn(x, x, x, need_weights=False)
    return [(out * 1000).round() for out in found], m(x), attended, weights is None


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
def deepcopy_of_module_and_tensor(device: str) -> Any:
    m, t = net(device), data(device, 3)
    n, u = copy.deepcopy(m), copy.deepcopy(t)
    with torch.no_grad():
        m[0].weight.zero_()
    t.zero_()
    return n[0].weight, u, copy.deepcopy([t, t])[0]


@idiom
def pinned_loader_of_tensors_on_the_device(device: str) -> Any:
    dataset = torch.utils.data.TensorDataset(torch.arange(6.0, device=device))
    return [batch for (batch,) in torch.utils.data.DataLoader(dataset, batch_size=4, pin_memory=True)]


@idiom
def data_loader_with_workers(device: str) -> Any:
    dataset = torch.utils.data.TensorDataset(torch.arange(12.0))
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=1, pin_memory=True)
    return [batch.to(device).sum() for (batch,) in loader]


@idiom
def numbers_that_are_equal_and_of_other_types(device: str) -> Any:
    on = {"device": device}
    a = [torch.arange(3, **on), torch.arange(3.0, **on), torch.arange(0, 3, 1, **on), torch.arange(0, 3, 1.0, **on)]
    x = torch.tensor([1, 2], **on)
    return a, [x * n for n in (1, 1.0, True)], [torch.full((2,), n, **on) for n in (1, 1.0, True)], x.clamp(0), x.clamp(0.0)


@idiom
def wrong_dtypes_raise_at_the_call(device: str) -> Any:
    x, n, i = (torch.ones(2, 2, dtype=d, device=device) for d in (torch.float32, torch.int64, torch.int32))
    calls = (
        lambda: n @ x, lambda: torch.addmm(x, n, x), lambda: F.linear(x, n), lambda: n.var(),
        lambda: x.add_(1j), lambda: n.div_(2),
        lambda: torch.bernoulli(n), lambda: F.layer_norm(x, (2,), x[0].double(), x[0]), lambda: x.masked_fill_(i, 0.0),
        lambda: n.softmax(0), lambda: x.softmax(5), lambda: n.double().mm(x), lambda: torch.multinomial(n, 1),
    )  # fmt: skip
    return [_message(call).split("\n")[0] for call in (*calls, *calls)], x, n


@idiom
def channels_last(device: str) -> Any:
    x = data(device, 2, 4, 6, 6).to(memory_format=torch.channels_last)
    w = torch.ones(2, 4, 3, 3, device=device)
    made = [
        F.conv2d(x, w), F.conv2d(x.contiguous(), w.to(memory_format=torch.channels_last)),
        F.conv_transpose2d(x, w.view(4, 2, 3, 3)),
        F.pad(x, (1, 1, 1, 1), "reflect"), F.pad(x, (1, 1, 1, 1), "replicate"), F.pixel_shuffle(x, 2), x.roll(1, 2), x + 1,
        F.conv2d(x, torch.ones(4, 1, 3, 3, device=device), groups=4), torch.linalg.svd(x[0, 0])[2],
    ]  # fmt: skip
    return made, [t.stride() for t in made], x.cpu().stride()


@idiom
def einsum(device: str) -> Any:
    return torch.einsum("bij,bjk->bik", data(device, 2, 3, 4), data(device, 2, 4, 5))


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
    """A product that starts from the bias rounds otherwise than one that the bias is added to."""
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


@idiom
def convolution_and_batch_norm(device: str) -> Any:
    torch.manual_seed(0)
    m = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)).to(device)
    x = data(device, 2, 2, 8, 8)
    m(x).sum().backward()
    trained = grads(m), m[1].running_mean.clone()
    m.eval()
    return trained, m(x)


@idiom
def complex_numbers_and_fft(device: str) -> Any:
    x = data(device, 8)
    z = torch.fft.fft(x)
    return z, z.conj() * z, z.real, z.imag, torch.fft.ifft(z).real, torch.view_as_real(z), z.abs(), torch.fft.rfft(x)


@idiom
def linalg(device: str) -> Any:
    a = data(device, 4, 4)
    s = a @ a.T + torch.eye(4, device=device)
    return torch.linalg.cholesky(s), torch.linalg.inv(s), torch.linalg.eigvalsh(s), torch.linalg.solve(s, a), torch.det(s)


@idiom
def tied_parameters_stay_tied(device: str) -> Any:
    m = nn.ModuleDict({"a": nn.Embedding(5, 3), "b": nn.Linear(3, 5, bias=False)})
    m["b"].weight = m["a"].weight
    m.to(device)
    return m["a"].weight is m["b"].weight, len(list(m.parameters()))


@idiom
def parameters_that_move_are_the_same_objects(device: str) -> Any:
    """With their hooks, weak references and gradients, also while a graph or a view of them lives."""
    torch.manual_seed(0)
    m, seen = nn.Linear(3, 2), []
    weight, reference, view = m.weight, weakref.ref(m.weight), m.weight.view(-1)
    weight.register_hook(lambda g: g * 3)
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    kept = m(torch.ones(1, 3))
    kept.sum().backward()
    m.to(device)
    moved = weight.grad.clone()
    alive = m(torch.ones(1, 3, device=device))
    m.double()
    m(torch.ones(1, 3, device=device).double()).sum().backward()
    m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()})
    m.cpu()
    weight.data = weight.data.to(device)
    same = weight is m.weight, reference() is weight, view.dtype
    return moved, seen, weight, weight.grad, weight.grad_fn, weight.is_leaf, kept, alive, same


@idiom
def state_dicts_that_are_assigned(device: str) -> Any:
    a, b = nn.Linear(2, 2).to(device), nn.Linear(2, 2).to(device)
    b.weight = a.weight
    both = nn.ModuleList([a, b])
    state = {k: v.clone() for k, v in both.state_dict().items()}
    both.load_state_dict(state, assign=True)
    return a.weight is b.weight, a.weight.data_ptr() == state["0.weight"].data_ptr(), a.weight.requires_grad


@idiom
def views_and_in_place(device: str) -> Any:
    base = torch.zeros(4, 5, device=device)
    row, block = base[1], base[1:3, ::2]
    row.fill_(1)
    block += 2
    base.t()[4].mul_(3)
    base.view(-1)[0] = 9
    return base, row, block, base._version > 0, block._is_view()


@idiom
def in_place_through_autograd(device: str) -> Any:
    x = data(device, 4).requires_grad_()
    y = x * 1
    y[1:3] *= 2
    y.add_(1)
    y.pow(2).sum().backward()
    return y, x.grad


@idiom
def out_and_resize(device: str) -> Any:
    a, b = torch.empty(0, device=device), torch.ones(2, device=device)
    torch.add(b, 1, out=a)
    c = torch.arange(6.0, device=device)
    c.resize_(2, 3)
    d = torch.zeros(2, 3, device=device)
    d.t_()
    d.unsqueeze_(0)
    return a, c, d.shape, d.stride()


@idiom
def writes_that_do_not_fit_raise_at_the_call(device: str) -> Any:
    x, i = torch.arange(12.0, device=device).view(3, 4), torch.tensor([0, 2], device=device)
    found = [
        _message(lambda: x.__setitem__((slice(None), i), torch.ones(5, 5, device=device))),
        _message(lambda: x.__setitem__(i, torch.ones(3, device=device))),
        _message(lambda: x.index_put((i, i[:1]), torch.ones(3, device=device))),
        _message(lambda: x[0].expand(3, 4).add_(1)),
        _message(lambda: x.as_strided((2, 3), (0, 1)).mul_(2)),
    ]
    return [m.split("\n")[0] for m in found], x


@idiom
def strides_of_empty_tensors(device: str) -> Any:
    x = torch.ones(2, 0, 3, device=device)
    return [
        t.stride() for t in (x, x + 1, x.sum(2), x.transpose(0, 2).contiguous(), torch.empty(0, device=device), x[:, :, 0])
    ]


@idiom
def sparse_gradients_of_bags(device: str) -> Any:
    found = []
    text, offsets = torch.tensor([4, 1, 1, 3, 0, 2, 4], device=device), torch.tensor([0, 2, 5], device=device)
    for mode, of_each in (("mean", None), ("sum", None), ("sum", data(device, 7))):
        torch.manual_seed(0)
        m = nn.EmbeddingBag(6, 3, mode=mode, sparse=True).to(device)
        optimizer = torch.optim.SGD(m.parameters(), lr=1.0)
        m(text, offsets, of_each).pow(2).sum().backward()
        found += [m.weight.grad.is_sparse, m.weight.grad.to_dense()]
        optimizer.step()
        found.append(m.weight)
    return found


@idiom
def arrays_of_numpy(device: str) -> Any:
    t = torch.arange(6.0, device=device).view(2, 3)
    return np.array(t), np.asarray(t, dtype=np.int64), np.stack([t, t]), np.array(t.tolist()), np.array([t[0, 0], t[0, 1]])


@idiom
def losses_of_two_dtypes(device: str) -> Any:
    found = []
    for loss in (F.mse_loss, F.smooth_l1_loss):
        x, y = data(device, 3, 4).requires_grad_(), data(device, 3, 4).double()
        found += [loss(x, y), *torch.autograd.grad(loss(x, y), x)]
    return found


@idiom
def what_a_mistake_says(device: str) -> Any:
    a, b = torch.ones(2, 3, device=device), torch.ones(4, device=device)
    mistakes = (lambda: torch.cat([a, b]), lambda: a + b, lambda: a.view(4), lambda: a[5], lambda: a.sum(3), lambda: bool(b))
    return [_message(mistake) for mistake in (*mistakes, lambda: a.requires_grad_().numpy(), lambda: a.backward())]


@idiom
def numbers_that_stand_first(device: str) -> Any:
    i = torch.tensor([2, 3], device=device)
    return 7 // i, 7 % i, 7 / i, 2**i, 1 << i, 3 - i, torch.mul(3, i), torch.floor_divide(7, i), torch.sub(3, i, alpha=2)


@idiom
def numbers_that_are_equal_but_not_alike(device: str) -> Any:
    return [torch.arange(n, device=device) for n in (3, 3.0, 3)], [torch.arange(1, n, device=device) for n in (3.0, 3)]


@idiom
def convolutions_of_channels_last(device: str) -> Any:
    """Results are laid out as a CPU lays them out, which dropout and sums see."""
    x, w = data(device, 2, 6, 6, 8).permute(0, 3, 1, 2), data(device, 8, 8, 3, 3)
    outs = [F.conv2d(x, w), F.conv2d(x.contiguous(), w), F.conv2d(x, w[:, :1], groups=8), F.conv_transpose2d(x, w)]
    outs += [F.conv2d(x.contiguous(), w.to(memory_format=torch.channels_last)), F.conv1d(x.flatten(2), w[..., 0])]
    volume = data(device, 2, 8, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    outs += [F.conv3d(volume, w[..., None]), F.conv3d(volume.contiguous(), w[..., None])]
    torch.manual_seed(0)
    return outs, [out.stride() for out in outs], [F.dropout(out) for out in outs]


@idiom
def advanced_indexing(device: str) -> Any:
    x = torch.arange(24.0, device=device).view(2, 3, 4)
    i = torch.tensor([0, 2], device=device)
    y = x.clone()
    y[:, i] = -1
    y[x > 20] = 0
    return x[:, i, 1], x[x > 10], x[..., None, -1], y, x[[0, 1], [1, 2]], x[torch.tensor([1, 0])]


@idiom
def data_dependent_shapes(device: str) -> Any:
    x = torch.tensor([3, 1, 3, 0, 2], device=device)
    values, counts = torch.unique(x, return_counts=True)
    return x.nonzero(), x[x > 1], values, counts, torch.where(x > 1), torch.masked_select(x, x > 2), x.bincount()


@idiom
def data_pointers(device: str) -> Any:
    a, b = torch.zeros(4, device=device), torch.zeros(4, device=device)
    same = a.data_ptr() == a.detach().data_ptr(), a.data_ptr() != b.data_ptr()
    return (
        same,
        a[1:].data_ptr() - a.data_ptr(),
        a.untyped_storage().nbytes(),
        a.untyped_storage().data_ptr() == a.data_ptr(),
    )


@idiom
def several_threads(device: str) -> Any:
    found: dict[int, torch.Tensor] = {}

    def work(number: int) -> None:
        x = torch.full((16,), float(number), device=device, requires_grad=True)
        for _ in range(50):
            (x * x).sum().backward()
        found[number] = x.grad

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[n] for n in range(4)]


@idiom
def printing(device: str) -> Any:
    x = data(device, 3, 3)
    y = (x.requires_grad_() * 2).sum()
    return (
        str(x.detach()),
        repr(x),
        str(y),
        str(torch.tensor([True], device=device)),
        str(nn.Parameter(x.detach())),
        f"{y:.3f}",
    )


@idiom
def printing_what_has_a_history(device: str) -> Any:
    """The name of the last node, also where there is another one here."""
    torch.manual_seed(0)
    q = data(device, 1, 2, 4, 8).requires_grad_()
    made = [F.dropout(q), F.scaled_dot_product_attention(q, q, q), F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)]
    for bias, shape in itertools.product((True, False), ((4,), (2, 4), (2, 3, 4))):
        linear, x = nn.Linear(4, 3, bias=bias).to(device), data(device, *shape)
        made += [linear(x), linear(x.mT.contiguous().mT) if x.dim() > 1 else linear(x).sum()]
    for kind, batch_first in itertools.product((nn.LSTM, nn.GRU, nn.RNN), (True, False)):
        made += torch.utils._pytree.tree_leaves(kind(4, 3, batch_first=batch_first).to(device)(data(device, 2, 3, 4)))
    made += nn.LSTMCell(4, 3).to(device)(data(device, 2, 4))
    made += [cell(4, 3).to(device)(data(device, 2, 4)) for cell in (nn.GRUCell, nn.RNNCell)]
    return [repr(t).rpartition("grad_fn=")[2] for t in made]


@idiom
def load_state_dict_and_cast_while_a_graph_lives(device: str) -> Any:
    m = net(device)
    out = m(data(device, 2, 4)).sum()
    m.load_state_dict({name: value * 2 for name, value in m.state_dict().items()})
    m.to(device).double()
    return out, list(m.parameters())


@idiom
def fetching(device: str) -> Any:
    x = data(device, 2, 2)
    arrays = x.cpu().numpy(), np.array(x.cpu(), dtype=np.float64), _message(lambda: (x * 1).requires_grad_().cpu().numpy())
    return x.sum().item(), x.tolist(), bool((x > -9).all()), float(x[0, 0]), int(x[0, 0] * 10), arrays, len(x)


@idiom
def seeds(device: str) -> Any:
    torch.manual_seed(0)
    a = torch.randn(3, device=device)
    b = F.dropout(torch.ones(20, device=device), 0.5)
    c = torch.multinomial(torch.ones(5, device=device), 3)
    d = torch.randperm(6, device=device)
    e = nn.init.xavier_uniform_(torch.empty(3, 3, device=device))
    return a, b, c, d, e, torch.rand(2, device=device, generator=torch.Generator().manual_seed(5))


@idiom
def schedulers(device: str) -> Any:
    m = net(device)
    optimizer = torch.optim.Adam(m.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    for _ in range(4):
        optimizer.zero_grad()
        m(data(device, 2, 4)).pow(2).sum().backward()
        optimizer.step()
        schedule.step()
    return list(m.parameters()), schedule.get_last_lr()


@idiom
def clipping(device: str) -> Any:
    m = net(device)
    m(data(device, 2, 4)).pow(2).sum().backward()
    return nn.utils.clip_grad_norm_(m.parameters(), 0.5), grads(m)


@idiom
def transformer_layer(device: str) -> Any:
    torch.manual_seed(0)
    m = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).to(device)
    x = data(device, 2, 5, 8)
    out = m(x)
    out.sum().backward()
    m.eval()
    with torch.no_grad():
        return out, grads(m), m(x)


@idiom
def accelerator(device: str) -> Any:
    if device != "cpu":
        torch.accelerator.synchronize()
        assert torch.accelerator.current_accelerator().type == "remote"
        assert torch.accelerator.device_count() == 1
    return torch.ones(2, device=device)


@idiom
def wrong_shapes_raise_at_the_call(device: str) -> Any:
    return _message(lambda: torch.ones(2, 3, device=device) @ torch.ones(2, 3, device=device)).split("\n")[0]


@idiom
def default_dtype(device: str) -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        return torch.ones(2, device=device), torch.tensor([1, 2], device=device) / 2
    finally:
        torch.set_default_dtype(torch.float32)


@idiom
def swapped_and_assigned_data(device: str) -> Any:
    a, b = data(device, 3), torch.zeros(3, device=device)
    c = a * 1
    c.data = b
    c += 1
    d, e = torch.ones(2, device=device), torch.zeros(2, device=device)
    torch.utils.swap_tensors(d, e)
    return a, b, c, d, e


@idiom
def copied_attributes_do_not_carry_identity(device: str) -> Any:
    a, b = torch.ones(2, device=device), torch.zeros(2, device=device)
    a + b
    b.__dict__.update(a.__dict__)
    return b + 1
