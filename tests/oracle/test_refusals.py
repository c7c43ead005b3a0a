"""Calls that PyTorch rejects are rejected at the call, by the same exception with the same message."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import gt

Make = Callable[..., torch.Tensor]


def _ones(device: str) -> Make:
    return lambda *size, dtype=torch.float32: torch.ones(*size, dtype=dtype, device=device)


def _overlapping_sum(x: torch.Tensor) -> None:
    x[1:] += x[:-1]


double, half, bfloat, long, short, int8 = torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8
TAKEN = {("eye", torch.bool), ("eye", torch.float8_e5m2), ("eye", torch.complex64), ("randn", torch.complex64)}
"""Factories and the dtypes that they know."""
CASES: dict[str, Callable[[Make], Any]] = {
    "and of floats": lambda o: o(2) & o(2),
    "or of floats": lambda o: o(2) | o(2),
    "xor of a float and a number": lambda o: o(2) ^ 1,
    "not of floats": lambda o: ~o(2),
    "gcd of floats": lambda o: torch.gcd(o(2), o(2)),
    "and in place": lambda o: o(2).bitwise_and_(o(2)),
    "min of nothing": lambda o: o(0).min(),
    "argmax of nothing": lambda o: o(0).argmax(),
    "amax of nothing": lambda o: o(0).amax(),
    "max along nothing": lambda o: o(2, 0).max(1),
    "mode along nothing": lambda o: o(2, 0).mode(1),
    "too large a k": lambda o: o(3).kthvalue(5),
    "sum over its own part": lambda o: _overlapping_sum(o(4)),
    "copy over its own part": lambda o: (x := o(4))[1:].copy_(x[:-1]),
    "out over its own part": lambda o: torch.add((x := o(4))[:-1], 1, out=x[1:]),
    "cross entropy of doubles": lambda o: F.binary_cross_entropy(o(3), o(3, dtype=double)),
    "cross entropy of integers": lambda o: F.binary_cross_entropy(o(3), o(3, dtype=long)),
    "classes as floats": lambda o: F.nll_loss(o(3, 4), o(3)),
    "classes as short integers": lambda o: F.cross_entropy(o(3, 4), o(3, dtype=short)),
    "index of floats": lambda o: o(3)[o(2)],
    "select by floats": lambda o: o(3).index_select(0, o(2)),
    "scatter of doubles": lambda o: o(3).scatter_(0, o(2, dtype=long), o(2, dtype=double)),
    "index_add of doubles": lambda o: o(3).index_add_(0, o(2, dtype=long), o(2, dtype=double)),
    "index_copy of doubles": lambda o: o(3).index_copy_(0, o(2, dtype=long), o(2, dtype=double)),
    "index_put of doubles": lambda o: o(3).index_put_((o(2, dtype=long),), o(2, dtype=double)),
    "index_fill by floats": lambda o: o(3).index_fill_(0, o(2), 1.0),
    "embedding by floats": lambda o: F.embedding(o(2), o(3, 4)),
    "take by floats": lambda o: o(3).take(o(2)),
    "mask of floats": lambda o: o(3).masked_select(o(3)),
    "condition of floats": lambda o: torch.where(o(3), o(3), o(3)),
    "cholesky of bfloat16": lambda o: torch.linalg.cholesky(o(1, 1, dtype=bfloat)),
    "pinv of float16": lambda o: torch.linalg.pinv(o(2, 2, dtype=half)),
    "histogram of complex": lambda o: o(3, dtype=torch.complex64).histc(),
    "histogram of masks": lambda o: o(3, dtype=torch.bool).histc(),
    **{
        f"{name} of {dtype}": lambda o, make=make, dtype=dtype: make(dtype=dtype, device=o(1).device)
        for name, make in {
            "arange": partial(torch.arange, 3),
            "eye": partial(torch.eye, 2),
            "randn": partial(torch.randn, 2),
        }.items()
        for dtype in (torch.bool, torch.uint16, torch.float8_e5m2, torch.complex64)
        if (name, dtype) not in TAKEN
    },
    "sort of complex": lambda o: o(3, dtype=torch.complex64).sort(),
    "product of two dtypes": lambda o: o(2, 2) @ o(2, 2, dtype=double),
    "convolution of two dtypes": lambda o: F.conv1d(o(1, 2, 4), o(2, 2, 2, dtype=double)),
    "layer norm of two dtypes": lambda o: F.layer_norm(o(2, 4), (4,), o(4, dtype=double)),
    "float into integers": lambda o: o(2, dtype=long).add_(1.5),
    "mean of integers": lambda o: o(3, dtype=long).mean(),
    "softmax of integers": lambda o: o(3, dtype=long).softmax(0),
    "attention of two dtypes": lambda o: F.scaled_dot_product_attention(q := o(1, 1, 2, 4), q.double(), q),
    "bias of a convolution": lambda o: F.conv2d(o(1, 2, 4, 4), o(3, 2, 2, 2), o(2)),
    "dilation of nothing": lambda o: F.conv1d(o(1, 2, 4), o(2, 2, 2), dilation=0),
    "negative padding": lambda o: F.conv1d(o(1, 2, 4), o(2, 2, 2), padding=-1),
    "strides of two dims": lambda o: F.conv1d(o(1, 2, 4), o(2, 2, 2), stride=(1, 1)),
    "output padding of a stride": lambda o: F.conv_transpose1d(o(1, 2, 4), o(2, 3, 2), stride=2, output_padding=2),
    "channels of a transposed convolution": lambda o: F.conv_transpose2d(o(1, 3, 4, 4), o(2, 3, 2, 2)),
    "an index of two dims": lambda o: o(2, 2).index_select(0, o(2, 2, dtype=long)),
    "an index of masks": lambda o: o(3).index_select(0, o(3, dtype=torch.bool)),
    "a source of other sizes": lambda o: o(3, 4).index_add_(0, o(2, dtype=long), o(2, 3)),
    "a target of other sizes": lambda o: F.nll_loss(o(2, 3, 8, 8), o(2, 8, 7, dtype=long)),
    "a target of masks": lambda o: F.cross_entropy(o(2, 3), o(2, dtype=torch.bool)),
    "a mask of other sizes": lambda o: o(3, 4).__setitem__(o(2, dtype=torch.bool), 1.0),
    "values of other sizes": lambda o: o(3, 4).__setitem__(o(3, dtype=torch.bool), o(2, 4)),
    "values of integers": lambda o: o(3, 4).__setitem__(o(2, dtype=long), o(2, 4, dtype=long)),
    "a side that is none": lambda o: torch.searchsorted(o(3), o(2), side="up"),
    "boundaries of two dims": lambda o: torch.bucketize(o(2), o(2, 2)),
    "classes below zero": lambda o: F.one_hot(-o(2, dtype=long)),
    "classes that are floats": lambda o: F.one_hot(o(2)),
    "a view beyond its storage": lambda o: o(6).as_strided((8,), (1,)).sum(),
    "a write beyond its storage": lambda o: o(6).as_strided((2, 2), (1, 1), 5).fill_(0),
    "a comparison that is larger": lambda o: o(5, 1).lt_(o(5, 3)),
    "a power that is larger": lambda o: o(1).pow_(o(3)),
    "a sum into one of its operands": lambda o: torch.add(x := o(5, 1), o(5, 3), out=x),
    "a transpose of three dims": lambda o: o(1, 2, 3).t_(),
    "a difference with a boolean": lambda o: o(3).sub_(False),
    "a fill by a mask of floats": lambda o: o(3).masked_fill_(o(3), 1.0),
    "and of integers with a float": lambda o: (o(3, dtype=long) & 1, o(3, dtype=long) & 0.5),
    "integers times a float in place": lambda o: (o(3, dtype=long).mul_(2), o(3, dtype=long).mul_(0.5)),
    "booleans in order": lambda o: (o(1, dtype=torch.bool).kthvalue(1), o(3, dtype=torch.bool).kthvalue(1)),
    "a put of what is written": lambda o: (x := o(3)).put_(o(3, dtype=long), x),
    "a complex number as a float": lambda o: o(3).__setitem__(0, 1 + 2j),
    "a sort of no dim": lambda o: o(2, 3).sort(dim=2),
    "a maximum of no dim": lambda o: torch.cummax(o(1).sum(), 2),
    "a softmax of no dim": lambda o: o(2, 3).softmax(-3),
    "a slice of no dim": lambda o: torch.slice_scatter(o(2, 3), o(2, 3), 2),
    "a mode of complex numbers": lambda o: (o(1, dtype=torch.complex64).mode(0), o(3, dtype=torch.complex64).mode(0)),
    "values into integers": lambda o: torch.cummax(o(3), 0, out=(o(3), o(3, dtype=short))),
    "a number into one element many times": lambda o: o(3, 1).expand(3, 4).copy_(2.5),
    "a local tensor into one element": lambda o: o(1).expand(3).copy_(torch.zeros(3)),
    "grid of another dtype": lambda o: F.grid_sample(o(1, 1, 2, 2), o(1, 2, 2, 2, dtype=double)),
    "a range that ends before it begins": lambda o: (o(3).uniform_(0, 1), o(3).uniform_(2, 1)),
    "a range without an end": lambda o: o(3).uniform_(0, math.inf),
    "a probability above one": lambda o: (o(3).bernoulli_(0.5), o(3).bernoulli_(2.0)),
    "a probability below zero": lambda o: torch.bernoulli(o(3), -1.0),
    "integers between nothing": lambda o: (o(3).random_(2, 5), o(3).random_(5, 2)),
    "integers below nothing": lambda o: o(3).random_(-1),
    "integers beyond their dtype": lambda o: o(3, dtype=int8).random_(0, 300),
    "more integers beyond their dtype": lambda o: torch.randint(0, 300, (3,), dtype=int8, device=o(0).device),
    "integers like others between nothing": lambda o: torch.randint_like(o(3), 5, 2),
    "a permutation beyond its dtype": lambda o: torch.randperm(300, dtype=torch.uint8, device=o(0).device),
    "a negative deviation": lambda o: (o(3).normal_(0, 1), o(3).normal_(0, -1)),
    "a negative deviation of a factory": lambda o: [torch.normal(0.0, s, (3,), device=o(0).device) for s in (1.0, -1.0)],
    "a negative deviation of logarithms": lambda o: (o(3).log_normal_(0, 1), o(3).log_normal_(0, -1)),
    "a negative rate": lambda o: (o(3).exponential_(1), o(3).exponential_(-1)),
    "a chance above one": lambda o: (o(3).geometric_(0.5), o(3).geometric_(2)),
    "a negative scale": lambda o: (o(3).cauchy_(0, 1), o(3).cauchy_(0, -1)),
    "more samples than there are": lambda o: (o(3).multinomial(2), o(3).multinomial(5)),
    "far more samples than there are": lambda o: o(3).multinomial(1 << 40),
    "no samples": lambda o: o(3).multinomial(0),
    "a dropout above one": lambda o: (torch.native_dropout(o(3), 0.5, True), torch.native_dropout(o(3), 1.5, True)),
    "a fill beyond its dtype": lambda o: (o(2, dtype=int8).fill_(3), o(2, dtype=int8).fill_(300)),
    "a negative fill beyond its dtype": lambda o: o(2, dtype=torch.uint8).fill_(-300),
    "a masked fill beyond its dtype": lambda o: o(2, dtype=int8).masked_fill(o(2, dtype=torch.bool), 300),
    "a masked fill of integers with infinity": lambda o: o(2, dtype=long).masked_fill_(o(2, dtype=torch.bool), -math.inf),
    "an indexed fill beyond its dtype": lambda o: [o(2, dtype=int8).index_fill(0, o(2, dtype=long), n) for n in (3, 300)],
    "a scatter beyond its dtype": lambda o: [o(2, dtype=int8).scatter(0, o(2, dtype=long), n) for n in (3, 300)],
    "a padding beyond its dtype": lambda o: (F.pad(o(4, dtype=int8), (1, 1)), F.pad(o(4, dtype=int8), (1, 1), value=300)),
    "an element beyond its dtype": lambda o: (o(2, dtype=int8).__setitem__(0, 3), o(2, dtype=int8).__setitem__(0, 300)),
    "elements beyond their dtype": lambda o: o(2, dtype=int8).__setitem__(o(2, dtype=torch.bool), 300),
    "indexed elements beyond their dtype": lambda o: o(2, dtype=int8).__setitem__(o(2, dtype=long), 300),
    "a choice beyond its dtype": lambda o: torch.where(o(2, dtype=torch.bool), o(2, dtype=int8), 300),
    "full of what is beyond its dtype": lambda o: torch.full((2,), 300, dtype=int8, device=o(0).device),
    "a masked fill beyond half floats": lambda o: o(2, dtype=half).masked_fill(o(2, dtype=torch.bool), -1e9),
    "full like what has no room": lambda o: (torch.full_like(o(2), 300), torch.full_like(o(2), 300, dtype=int8)),
    "new and full beyond its dtype": lambda o: o(2, dtype=int8).new_full((2,), 300),
    "a scalar beyond its dtype": lambda o: torch.scalar_tensor(300, dtype=int8, device=o(0).device),
    "fewer classes than none": lambda o: F.one_hot(o(3, dtype=long), num_classes=-2),
    "a class beyond the last": lambda o: F.one_hot(3 * o(3, dtype=long), num_classes=3),
    "a class before the first": lambda o: F.one_hot(-o(3, dtype=long), num_classes=3),
    "a quantile above one": lambda o: (torch.quantile(o(3), 0.5), torch.quantile(o(3), 1.5)),
    "a quantile below zero": lambda o: (torch.nanquantile(o(3), 0.5), torch.nanquantile(o(3), -0.5)),
    "quantiles above one": lambda o: (torch.quantile(o(3), o(2) * 0.5), torch.quantile(o(3), o(2) * 1.5)),
    "quantiles above one of nothing": lambda o: torch.nanquantile(o(3) * math.nan, o(2) * 1.5),
    "quantiles that are no numbers": lambda o: torch.quantile(o(3), o(2) * math.nan),
    "bins from more to less": lambda o: (torch.histc(o(3), 10, 0, 1), torch.histc(o(3), 10, 5, 1)),
    "bins up to infinity": lambda o: torch.histc(o(3), 10, 0, math.inf),
    "a slope of nothing": lambda o: (F.celu(o(3), 1.0), F.celu(o(3), 0.0)),
    "a slope of nothing in place": lambda o: torch.celu_(o(3), 0.0),
    "a negative bend": lambda o: (F.smooth_l1_loss(o(3), o(3)), F.smooth_l1_loss(o(3), o(3), beta=-1.0)),
    "a negative shrinking": lambda o: (F.softshrink(o(3), 1.0), F.softshrink(o(3), -1.0)),
    "a negative norm": lambda o: (o(3, 3).renorm(2, 0, 1), o(3, 3).renorm(-1, 0, 1)),
    "a negative largest norm": lambda o: (o(3, 3).renorm(2, 0, 1), o(3, 3).renorm(2, 0, -1)),
    "a distance of negative power": lambda o: [torch.cdist(o(3, 2), o(3, 2), p=p) for p in (1.0, -1.0)],
    "a negative slope in place": lambda o: F.leaky_relu_(o(3).requires_grad_().clone(), -1.0).sum().backward(),
    "a negative alpha in place": lambda o: F.elu_(o(3).requires_grad_().clone(), -1.0).sum().backward(),
    "a gamma function of no dim": lambda o: (o(3).mul(9).mvlgamma_(2), o(3).mvlgamma_(0)),
    "blocks with negative padding": lambda o: F.unfold(o(1, 2, 40, 40), 2, padding=-1),
    "a driver of an accelerator": lambda o: torch.linalg.svd(o(3, 3), driver="gesvd"),
    "no pivots": lambda o: (torch.linalg.lu(o(3, 3)), torch.linalg.lu(o(3, 3), pivot=False)),
    "a factorization without pivots": lambda o: torch.linalg.lu_factor(o(3, 3), pivot=False),
    "a bound that is complex": lambda o: o(3).clamp(1j),
    "a selection that is not there": lambda o: torch.select_scatter(o(3), o(1).sum(), 0, 7),
    "a slice of no step": lambda o: torch.slice_scatter(o(3), o(3), 0, 0, 9, 0),
    "a diagonal of another size": lambda o: torch.diagonal_scatter(o(3, 3), o(2)),
    "a step of nothing": lambda o: torch.arange(0, 5, 0, device=o(0).device),
    "a step the wrong way": lambda o: torch.arange(0, 5, -1, device=o(0).device),
    "points fewer than none": lambda o: torch.linspace(0, 1, -1, device=o(0).device),
    "points beyond their dtype": lambda o: [torch.linspace(0, n, 3, dtype=int8, device=o(0).device) for n in (3, 300)],
    "powers beyond their dtype": lambda o: [torch.logspace(0, n, 3, dtype=int8, device=o(0).device) for n in (1, 300)],
    "smoothing above one": lambda o: F.cross_entropy(o(2, 3), o(2, dtype=long), label_smoothing=1.5),
    "a dropout below zero": lambda o: torch.dropout(o(3), -0.5, True),
    "more than there are": lambda o: (o(3).topk(2), o(3).topk(5)),
    "a shuffle of other channels": lambda o: F.pixel_shuffle(o(1, 4, 2, 2), 3),
    "windows of no step": lambda o: o(3).unfold(0, 2, 0),
}
FACTORIES: dict[str, Callable[[Any], Any]] = {
    "zeros of a word": lambda t: t.zeros("a"),
    "numbers of a fraction": lambda t: t.rand(2.5),
    "a range of nothing": lambda t: t.arange(),
    "a range of a word": lambda t: t.arange("a"),
    "full of nothing": lambda t: t.full((2, 2)),
    "integers of no size": lambda t: t.randint(3),
    "points without an end": lambda t: t.linspace(0),
    "a window of a word": lambda t: t.hann_window("a"),
    "normal as a word": lambda t: t.normal("a"),
    "normal of no size": lambda t: t.normal(0.0, 1.0),
    "a dtype that is none": lambda t: t.zeros(2, dtype=3),
    "a generator that is none": lambda t: t.rand(2, generator=3),
    "an argument that is none": lambda t: t.zeros(2, bad=1),
    "a device of nothing": lambda t: t.randn("a", device=None),
}


def _raised(case: Callable[[Any], Any], given: Any) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one, PyTorch says
        case(given)
    return caught.type, str(caught.value).splitlines()[0]


@pytest.mark.parametrize("name", CASES)
def test_what_a_cpu_refuses_is_refused_at_the_call(name: str) -> None:
    assert _raised(CASES[name], _ones("remote")) == _raised(CASES[name], _ones("cpu"))


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_of_gt_refuses_in_the_words_of_torch(name: str) -> None:
    assert _raised(FACTORIES[name], gt) == _raised(FACTORIES[name], torch)


@pytest.mark.usefixtures("apart")
def test_what_is_tried_draws_from_no_generator() -> None:
    before = torch.get_rng_state()
    sizes = range(2, 5)
    made = [(torch.full((n,), 0.5, device="remote").bernoulli_(0.5), torch.randint(9, (n,), device="remote")) for n in sizes]
    assert len(made) == len(sizes)
    assert torch.equal(before, torch.get_rng_state())


def test_numbers_that_fit_are_written() -> None:
    numbers = [300, -300, 300.0, -math.inf, 2**40, 127, 128, -1]
    found = [[torch.ones(2, device=d).fill_(n).tolist() for n in numbers] for d in ("cpu", "remote")]
    assert found[0] == found[1]


def test_a_loss_of_two_dtypes_is_the_cpus() -> None:
    found = [F.huber_loss(_ones(d)(3), 3 * _ones(d)(3, dtype=double)) for d in ("cpu", "remote")]
    assert found[0].dtype is found[1].dtype
    assert torch.equal(found[0], found[1].cpu())


def test_parts_that_do_not_overlap_are_copied() -> None:
    found = []
    for device in ("cpu", "remote"):
        x = torch.arange(6.0, device=device)
        x[3:].copy_(x[:3])
        x[::2].add_(x[1::2])
        found.append(x.cpu())
    assert torch.equal(*found)


def test_an_object_of_a_library_that_was_not_moved_says_what_to_do() -> None:
    total = torch.tensor(0.0)
    with pytest.raises(RuntimeError, match=r"(?s)Expected all tensors to be on the same device.*a metric: \.to\('remote'\)"):
        total += torch.ones((), device="remote")
