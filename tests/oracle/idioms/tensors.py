"""Tensors: views and writes, dtypes, indexing, printing, seeds, threads."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.oracle.idioms import data, idiom, message


@idiom
def resized_and_resized_back(device: str) -> Any:
    x = data(device, 4)
    same, part = x.view(4), x[1:3]
    x.resize_(2)
    smaller = x.sum()
    x.resize_(4)
    grown = data(device, 2)
    grown.resize_(3, 2).view(-1)[2:] = 1
    grown.resize_as_(x)
    return smaller, x, x.sum(), same, same * 2, part, grown, grown.stride()


@idiom
def out_of_another_size(device: str) -> Any:
    x, rows = torch.zeros(2, 2, device=device), data(device, 3, 5, 1).transpose(0, 1)
    same = x.view(2, 2)
    torch.add(rows, data(device, 2), out=x)
    late = torch.empty(0, device=device)
    torch.mul(rows, data(device, 2), out=late)
    results = x.clone(), x.stride(), x.sum(0), late, late.stride(), same.shape, same.sum()
    return *results, x.resize_(2, 2), x.exp()


@idiom
def numbers_copied_in(device: str) -> Any:
    whole = torch.zeros(2, dtype=torch.int32, device=device)
    wide = torch.zeros(2, dtype=torch.float64, device=device)
    return whole.copy_(2**33 + 1), wide.copy_(0.1), wide.clone().copy_(True), wide.to(torch.complex128).copy_(1j)


@idiom
def device_as_a_context(device: str) -> Any:
    with torch.device(device):
        return torch.ones(3) + torch.arange(3), torch.ones(1).device.type == device


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
    return [message(call).split("\n")[0] for call in (*calls, *calls)], x, n


@idiom
def einsum(device: str) -> Any:
    return torch.einsum("bij,bjk->bik", data(device, 2, 3, 4), data(device, 2, 4, 5))


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
def views_and_in_place(device: str) -> Any:
    base = torch.zeros(4, 5, device=device)
    row, block = base[1], base[1:3, ::2]
    row.fill_(1)
    block += 2
    base.t()[4].mul_(3)
    base.view(-1)[0] = 9
    return base, row, block, base._version > 0, block._is_view()


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
        message(lambda: x.__setitem__((slice(None), i), torch.ones(5, 5, device=device))),
        message(lambda: x.__setitem__(i, torch.ones(3, device=device))),
        message(lambda: x.index_put((i, i[:1]), torch.ones(3, device=device))),
        message(lambda: x[0].expand(3, 4).add_(1)),
        message(lambda: x.as_strided((2, 3), (0, 1)).mul_(2)),
    ]
    return [m.split("\n")[0] for m in found], x


@idiom
def arrays_of_numpy(device: str) -> Any:
    t = torch.arange(6.0, device=device).view(2, 3)
    return np.array(t), np.asarray(t, dtype=np.int64), np.stack([t, t]), np.array(t.tolist()), np.array([t[0, 0], t[0, 1]])


@idiom
def what_a_mistake_says(device: str) -> Any:
    a, b = torch.ones(2, 3, device=device), torch.ones(4, device=device)
    mistakes = (lambda: torch.cat([a, b]), lambda: a + b, lambda: a.view(4), lambda: a[5], lambda: a.sum(3), lambda: bool(b))
    return [message(mistake) for mistake in (*mistakes, lambda: a.requires_grad_().numpy(), lambda: a.backward())]


@idiom
def numbers_that_stand_first(device: str) -> Any:
    i = torch.tensor([2, 3], device=device)
    return 7 // i, 7 % i, 7 / i, 2**i, 1 << i, 3 - i, torch.mul(3, i), torch.floor_divide(7, i), torch.sub(3, i, alpha=2)


@idiom
def numbers_that_are_equal_but_not_alike(device: str) -> Any:
    return [torch.arange(n, device=device) for n in (3, 3.0, 3)], [torch.arange(1, n, device=device) for n in (3.0, 3)]


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
    texts = (
        str(x.detach()),
        repr(x),
        str(y),
        str(torch.tensor([True], device=device)),
        str(nn.Parameter(x.detach())),
        f"{y:.3f}",
    )
    return [text.replace(", device='remote:0'", "") for text in texts]  # named where nothing is ported


@idiom
def printing_what_has_a_history(device: str) -> Any:
    """The name of the last node, even if the remote graph has another one."""
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
def fetching(device: str) -> Any:
    x = data(device, 2, 2)
    arrays = x.cpu().numpy(), np.array(x.cpu(), dtype=np.float64), message(lambda: (x * 1).requires_grad_().cpu().numpy())
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
def accelerator(device: str) -> Any:
    if device != "cpu":
        torch.accelerator.synchronize()
        assert torch.accelerator.current_accelerator().type == "remote"
        assert torch.accelerator.device_count() == 1
    return torch.ones(2, device=device)


@idiom
def wrong_shapes_raise_at_the_call(device: str) -> Any:
    return message(lambda: torch.ones(2, 3, device=device) @ torch.ones(2, 3, device=device)).split("\n")[0]


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


@idiom
def tensors_made_in_inference_mode(device: str) -> Any:
    with torch.inference_mode():
        x = torch.tensor([1.0, 2.0], device=device)
        return x, x.is_inference(), x[0].detach_() * torch.tensor(3, device=device)


@idiom
def group_norms_of_one_sample(device: str) -> Any:
    """Where only the sample's stride says whether its elements are channels-last."""
    made = []
    for stride in ((16, 1, 64, 16), (256, 1, 64, 16), (256, 16, 4, 1), (4, 16, 4, 1)):
        y = F.group_norm(data(device, 256).as_strided((1, 16, 4, 4), stride), 4)
        made.append((y, y.stride(), F.silu(y).stride(), y.add(1).stride()))
    return made


@idiom
def gradients_of_group_norms(device: str) -> Any:
    """A CPU passes them on in the memory format of the input, and differentiates them by another formula."""
    made: list[Any] = []
    for shape, form in (((3, 8, 6, 5), torch.channels_last), ((2, 8, 3, 4, 5), torch.channels_last_3d), ((2, 8, 7), None)):
        for parameters in (0, 2):
            x = data(device, *shape) / 7
            x = x.transpose(1, 2).contiguous().transpose(1, 2) if form is None else x.contiguous(memory_format=form)
            leaves = [x.requires_grad_(), *((data(device, 8) / (3 + i)).requires_grad_() for i in range(parameters))]
            y, grad = F.group_norm(x, 4, *leaves[1:]), data(device, *shape).sin()
            found = torch.autograd.grad(y, leaves, grad, create_graph=True)
            again = torch.autograd.grad(sum((g * g).sum() for g in (y, *found)), leaves, retain_graph=True)
            for kind in (grad, grad.clone(memory_format=torch.contiguous_format), grad[:1, :1].expand(shape)):
                made += torch.autograd.grad(y, leaves, kind, retain_graph=True)
            made += [*again, *found]
    return made, [g.stride() for g in made]
