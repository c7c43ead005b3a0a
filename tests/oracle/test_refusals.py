"""What PyTorch refuses at the call is refused at the call, by the same exception with the same words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import gt  # noqa: F401

Make = Callable[..., torch.Tensor]


def _ones(device: str) -> Make:
    return lambda *size, dtype=torch.float32: torch.ones(*size, dtype=dtype, device=device)


def _overlapping_sum(x: torch.Tensor) -> None:
    x[1:] += x[:-1]


double, half, bfloat, long, short = torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32
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
}


def _raised(case: Callable[[Make], Any], device: str) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one, PyTorch says
        case(_ones(device))
    return caught.type, str(caught.value).splitlines()[0]


@pytest.mark.parametrize("name", CASES)
def test_what_a_cpu_refuses_is_refused_at_the_call(name: str) -> None:
    assert _raised(CASES[name], "remote") == _raised(CASES[name], "cpu")


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
