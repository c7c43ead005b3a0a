"""Modules: layers, states, loaders, schedules."""

from __future__ import annotations

import copy
import itertools
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.oracle.idioms import data, grads, idiom, net


@idiom
def attention_with_a_scale(device: str) -> Any:
    x = data(device, 1, 2, 4, 8).requires_grad_()
    outs = [F.scaled_dot_product_attention(x, x, x, dropout_p=0.0, is_causal=True, scale=s) for s in (0.3, 0.7, None)]
    return outs, torch.autograd.grad(sum(out.pow(2).sum() for out in outs), x)


@idiom
def attention_with_and_without_dropout(device: str) -> Any:
    """The two use kernels whose gradients have different strides."""
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
    """PyTorch uses nested tensors for it; the results are equal up to the last digits."""
    torch.manual_seed(0)
    layer, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), data(device, 3, 5, 16)
    m = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16)).to(device).eval()
    padding = torch.arange(5, device=device) >= torch.tensor([[5], [4], [2]], device=device)
    with torch.no_grad():
        found = m(x, src_key_padding_mask=padding), m(x, src_key_padding_mask=padding.float() * -1e9)
        attended, weights = m.layers[0].self_attn(x, x, x, need_weights=False)
    return [(out * 1000).round() for out in found], m(x), attended, weights is None


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
def convolution_and_batch_norm(device: str) -> Any:
    torch.manual_seed(0)
    m = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)).to(device)
    x = data(device, 2, 2, 8, 8)
    m(x).sum().backward()
    trained = grads(m), m[1].running_mean.clone()
    m.eval()
    return trained, m(x)


@idiom
def tied_parameters_stay_tied(device: str) -> Any:
    m = nn.ModuleDict({"a": nn.Embedding(5, 3), "b": nn.Linear(3, 5, bias=False)})
    m["b"].weight = m["a"].weight
    m.to(device)
    return m["a"].weight is m["b"].weight, len(list(m.parameters()))


@idiom
def parameters_that_move_are_the_same_objects(device: str) -> Any:
    """With their hooks, weak references and gradients, also while a graph or a view of them is alive."""
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
def losses_of_two_dtypes(device: str) -> Any:
    found = []
    for loss in (F.mse_loss, F.smooth_l1_loss):
        x, y = data(device, 3, 4).requires_grad_(), data(device, 3, 4).double()
        found += [loss(x, y), *torch.autograd.grad(loss(x, y), x)]
    return found


@idiom
def convolutions_of_channels_last(device: str) -> Any:
    """Results have the CPU's strides, on which dropout and sums depend."""
    x, w = data(device, 2, 6, 6, 8).permute(0, 3, 1, 2), data(device, 8, 8, 3, 3)
    outs = [F.conv2d(x, w), F.conv2d(x.contiguous(), w), F.conv2d(x, w[:, :1], groups=8), F.conv_transpose2d(x, w)]
    outs += [F.conv2d(x.contiguous(), w.to(memory_format=torch.channels_last)), F.conv1d(x.flatten(2), w[..., 0])]
    volume = data(device, 2, 8, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    outs += [F.conv3d(volume, w[..., None]), F.conv3d(volume.contiguous(), w[..., None])]
    torch.manual_seed(0)
    return outs, [out.stride() for out in outs], [F.dropout(out) for out in outs]


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
def counted_operations(device: str) -> Any:
    torch.manual_seed(0)
    x = data(device, 2, 5, 8).requires_grad_()
    attention, layer, gru = nn.MultiheadAttention(8, 2), nn.TransformerEncoderLayer(8, 2, 16), nn.GRU(8, 3)
    lstm, linear = nn.LSTM(8, 3).to(device), nn.Linear(8, 3).to(device)
    cells = [kind(8, 3).to(device) for kind in (nn.RNNCell, nn.LSTMCell, nn.GRUCell)]
    for module in (attention, layer, gru):
        module.to(device)
    before, q, attend = linear(x).sum(), x.view(2, 1, 5, 8), F.scaled_dot_product_attention
    calls = (
        lambda: before, lambda: linear(x).sum(), lambda: linear(x.detach().mT.contiguous().mT).sum(),
        lambda: linear(x[0]).sum(), lambda: attention(x, x, x)[0].sum(), lambda: layer(x).sum(), lambda: gru(x)[0].sum(),
        lambda: lstm(x)[0].sum(), lambda: attend(q, q, q).sum(), lambda: attend(q, q, q, None, 0.5).sum(),
        lambda: attend(x, x, x).sum(), lambda: cells[0](x[0]).sum(), lambda: cells[1](x[0])[0].sum(),
        lambda: cells[2](x[0]).sum(),
    )  # fmt: skip
    found: list[Any] = []
    for call in (*calls, *calls[1:]):  # a known call counts the same
        with FlopCounterMode(display=False) as counter:
            call().backward()
        found.append({scope: {str(op): n for op, n in ops.items()} for scope, ops in counter.get_flop_counts().items()})
    return [sorted(counts.items()) for counts in found], linear(x)


@idiom
def norms_of_what_is_transposed(device: str) -> Any:
    found: list[Any] = []
    for x in (data(device, 4, 6, 3).transpose(1, 2), data(device, 2, 5, 5, 4).permute(0, 3, 1, 2)):
        x.requires_grad_()
        batch = (nn.BatchNorm1d if x.dim() == 3 else nn.BatchNorm2d)(x.shape[1]).to(device)
        for norm in (batch, batch.eval(), nn.LayerNorm(x.shape[-1]).to(device)):
            y = norm(x)
            (gradient,) = torch.autograd.grad(y.pow(2).sum(), x)
            found += [y, y.stride(), gradient, gradient.stride()]
    return found


@idiom
def first_layers_that_normalize(device: str) -> Any:
    found: list[Any] = []
    for norm, x in (
        (nn.BatchNorm1d(3), data(device, 4, 3, 5)),
        (nn.InstanceNorm2d(3, affine=True), data(device, 2, 3, 4, 4)),
    ):
        net = nn.Sequential(norm, nn.Flatten(), nn.LayerNorm(x[0].numel())).to(device)
        net(x).pow(2).sum().backward()
        found += [grads(net), [b.clone() for b in net.buffers()]]
    return found
