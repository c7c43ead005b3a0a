"""Where DTensor is silently wrong (as seen with torch 2.13), GT gives the numbers of one worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.oracle.sharding.placing import place, place_sum
from tests.oracle.sharding.systems import Running, sharded

F = torch.nn.functional
Program = Callable[[torch.device, Callable[..., torch.Tensor]], Any]
"""Computes on a device. `put(tensor, placement)`: the tensor there, placed so where the device is sharded."""

TWO = "mesh: {d: 2}"
FOUR = "mesh: {d: 2, e: 2}"


@pytest.fixture
def two() -> Iterator[Running]:
    with sharded(TWO) as running:
        yield running


def seeded(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def both(running: Running, program: Program) -> None:
    """A program gives the same on the sharded device as on the CPU."""
    torch.manual_seed(5)
    wanted = program(torch.device("cpu"), lambda t, *_: t.clone())
    torch.manual_seed(5)

    def put(tensor: torch.Tensor, *placement: int | str | None) -> torch.Tensor:
        there = tensor.to("remote")
        if "sum" in placement:
            return place_sum(running, there, placement.index("sum"))
        place(running, there, placement)
        return there

    got = program(torch.device("remote"), put)
    for a, b in zip(_flat(wanted), _flat(got), strict=True):
        torch.testing.assert_close(b, a, equal_nan=True, rtol=1e-5, atol=1e-5)


def _flat(value: Any) -> list[Any]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v.detach().cpu() if isinstance(v, torch.Tensor) else v for v in values]


LOSSES = {
    "mse": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
    "huber": F.huber_loss,
    "bce": lambda x, y, reduction: F.binary_cross_entropy(x.sigmoid(), y.sigmoid(), reduction=reduction),
    "bce with logits": lambda x, y, reduction: F.binary_cross_entropy_with_logits(x, y.sigmoid(), reduction=reduction),
    "kl": lambda x, y, reduction: F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_of_reduced_losses_are_not_too_large(two: Running, loss: str, reduction: str) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        x, y = put(seeded(8, 6), 0).requires_grad_(), put(seeded(8, 6, seed=1), 0)
        value = LOSSES[loss](x, y, reduction=reduction)
        value.backward()
        return value, x.grad

    both(two, program)
    assert "no rule" not in two.planned


@pytest.mark.parametrize("placement", [0, 1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_labels_that_are_unequal_on_ranks(two: Running, placement: int, weighted: bool, reduction: str) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        labels = torch.tensor([-100, -100, -100, 1, 2, 0, 3, 2])
        x, y = put(seeded(8, 4), placement).requires_grad_(), labels.to(device)
        weight = torch.tensor([0.1, 2.0, 0.7, 1.3], device=device) if weighted else None
        direct = F.nll_loss(x, y, weight, reduction=reduction)
        value = F.cross_entropy(x, y, weight, reduction=reduction) + direct
        value.sum().backward()
        return value, x.grad, direct

    both(two, program)


@pytest.mark.parametrize("placement", [0, 2, 3])
def test_labels_of_images_and_soft_labels(two: Running, placement: int) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        x = put(seeded(4, 3, 2, 2), placement).requires_grad_()
        labels = torch.tensor([[-100, -100], [0, 1]]).repeat(4, 1, 1)
        labels[0] = -100
        value = F.cross_entropy(x, put(labels, 0)) + F.cross_entropy(x, put(seeded(4, 3, 2, 2, seed=3).softmax(1), 0))
        value = value + F.cross_entropy(x, put(labels, 0), label_smoothing=0.1)
        value.backward()
        return value, x.grad

    both(two, program)


@pytest.mark.parametrize("of_input", [None, 0, 1, 2, "sum"])
@pytest.mark.parametrize("of_weight", [None, 0, 1, 2, "sum"])
def test_a_convolution_sharded_by_any_dim(two: Running, of_input: int | str | None, of_weight: int | str | None) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        x, w = put(seeded(4, 6, 8, 8).double(), of_input), put(seeded(6, 6, 2, 2, seed=1).double(), of_weight)
        x.requires_grad_()
        w.requires_grad_()
        y, z = F.conv2d(x, w, seeded(6).double().to(device), padding=1), F.conv_transpose2d(x, w, stride=2)
        (y.square().sum() + z.square().sum()).backward()
        return y, z, x.grad, w.grad

    both(two, program)


def test_python_numbers_of_a_pending_sum(two: Running) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        x = put(torch.tensor(0.75), "sum")
        truth = bool(put(torch.tensor([1.0]), "sum") > 0.75)
        return x.item(), float(put(torch.tensor(0.75), "sum")), bool(put(torch.tensor(0.5), "sum")), truth

    both(two, program)


@pytest.mark.parametrize("pending", [0, 1, 2])
def test_gradients_of_a_quotient_in_which_an_operand_is_a_pending_sum(two: Running, pending: int) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        placed = [put(seeded(4, 4, seed=n).abs() + 1, "sum" if n == pending else None).requires_grad_() for n in range(3)]
        y = torch.addcdiv(*placed, value=0.5)
        (y * seeded(4, 4, seed=7).to(device)).sum().backward()
        return [y, *(one.grad for one in placed)]

    both(two, program)


def test_a_comparison_and_a_function_of_a_pending_sum(two: Running) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        x = seeded(4, 4)
        made = [put(x, "sum").square(), put(x, "sum") > 0.3, put(x, "sum").relu(), put(x, "sum") + 1, put(x, "sum") * 2]
        return [*made, put(x, "sum") @ put(x, "sum"), put(x, "sum").max(), put(x, "sum").argmax(0), put(x, "sum").norm()]

    both(two, program)


@pytest.mark.parametrize("placement", [0, 1, "sum"])
def test_a_write_through_a_gathered_view_is_kept(two: Running, placement: int | str) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        x = put(seeded(6, 4), placement)
        x[1:4].mul_(2)
        x.view(-1)[3:11].fill_(7)
        x.t()[1].add_(put(seeded(6, seed=2), 0))
        x.as_strided((5,), (5,), 1).zero_()
        return x, x.sum()

    both(two, program)


def test_a_write_that_reads_another_view_of_it(two: Running) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        x, y = put(seeded(4, 4), 0), put(seeded(4, 4, seed=1), 1)
        x[:2].add_(x[2:])
        y.addcmul_(y, put(seeded(4, 4, seed=2), 0))
        z, u = put(seeded(4, 4), None), put(seeded(4, 4), "sum")
        z.addcmul_(z, put(seeded(4, 4, seed=2), 0))
        z[0].add_(z[1])
        u[0].mul_(u[1])
        return x, y, z, u

    both(two, program)


def test_a_pending_sum_is_filled_once(two: Running) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        a, b, c = (put(seeded(4, 4), "sum") for _ in range(3))
        a.fill_(3.0)
        b.add_(1.0)
        c.copy_(seeded(4, 4, seed=3).to(device))
        d = put(seeded(4, 4), "sum")
        d[0] = 5.0
        e = put(seeded(4, 4), "sum")
        e.zero_()
        return a, b, c, d, e

    both(two, program)


RANDOM: dict[str, Callable[[torch.Tensor], Any]] = {
    "normal_": lambda x: x.normal_(),
    "uniform_": lambda x: x.uniform_(-1, 1),
    "bernoulli_": lambda x: x.bernoulli_(0.3),
    "exponential_": lambda x: x.exponential_(),
    "randn_like": torch.randn_like,
    "rand_like": torch.rand_like,
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "dropout": lambda x: F.dropout(x, 0.4),
    "dropout2d": lambda x: F.dropout2d(x.view(2, 4, 2, 2), 0.4),
    "multinomial": lambda x: torch.multinomial(x.softmax(-1), 2),
    "kaiming": lambda x: torch.nn.init.kaiming_uniform_(x),
    "xavier": lambda x: torch.nn.init.xavier_normal_(x),
    "orthogonal": lambda x: torch.nn.init.orthogonal_(x),
    "trunc_normal": lambda x: torch.nn.init.trunc_normal_(x, std=0.02),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "gumbel": lambda x: F.gumbel_softmax(x),
    "normal of": lambda x: torch.normal(x, x.abs() + 0.1),
    "poisson": lambda x: torch.poisson(x.abs()),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_those_of_one_worker(two: Running, name: str) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        return [RANDOM[name](put(seeded(4, 8), placement)) for placement in (0, 1, None)]

    both(two, program)


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda x: x.t(),
    "columns": lambda x: x[:, :6],
    "every other row": lambda x: x[::2],
}


@pytest.mark.parametrize("view", VIEWS)
def test_random_numbers_are_drawn_in_the_order_of_the_memory(two: Running, view: str) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        shown = []
        for placement in (0, 1):
            x = put(seeded(6, 8), placement).requires_grad_()
            dropped = F.dropout(VIEWS[view](x), 0.4)
            dropped.square().sum().backward()
            shown += [dropped, x.grad, torch.randn_like(VIEWS[view](x))]
            for name in ("normal_", "uniform_", "bernoulli_"):
                shown.append(RANDOM[name](VIEWS[view](put(seeded(6, 8), placement))))
        return shown

    both(two, program)


@pytest.mark.parametrize("axis", [0, 1])
def test_buffers_of_batch_norm_sharded_by_channel_or_batch(two: Running, axis: int) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        x, w = put(seeded(4, 6, 3, 3), axis).requires_grad_(), put(seeded(6), 0).requires_grad_()
        mean, var = put(torch.zeros(6), 0), put(torch.ones(6), 0)
        y = F.batch_norm(x, mean, var, w, training=True)
        y.square().sum().backward()
        z = F.batch_norm(x, mean, var, w)
        return y, z, mean, var, x.grad, w.grad

    both(two, program)


OPTIMIZERS: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "adamw fused": lambda p: torch.optim.AdamW(p, eps=1e-4, fused=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, eps=1e-4, foreach=True),
    "adam amsgrad": lambda p: torch.optim.Adam(p, eps=1e-4, amsgrad=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "nadam": lambda p: torch.optim.NAdam(p),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "rprop": lambda p: torch.optim.Rprop(p),
    "asgd": lambda p: torch.optim.ASGD(p),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_with_crossed_placements(two: Running, name: str) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        sizes = [((4, 6), 0, 1), ((5, 4), 1, None), ((6, 3), 0, "sum"), ((3,), None, None), ((4, 4), None, 0)]
        parameters = [put(seeded(*size, seed=k), own).requires_grad_() for k, (size, own, _) in enumerate(sizes)]
        optimizer = OPTIMIZERS[name](parameters)
        for step in range(3):
            for k, (size, _, other) in enumerate(sizes):
                parameters[k].grad = put(seeded(*size, seed=10 * step + k), other)
            torch.nn.utils.clip_grad_norm_(parameters, 2.0)
            optimizer.step()
        return parameters

    both(two, program)


@pytest.mark.parametrize("placement", [0, 1, None])
@pytest.mark.parametrize("of_index", [0, None])
def test_an_embedding_scaled_by_frequency(two: Running, placement: int | None, of_index: int | None) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        w = put(seeded(6, 4), placement).requires_grad_()
        index = put(torch.tensor([1, 1, 1, 2, 1, 0]), of_index)
        y = F.embedding(index, w, padding_idx=0, scale_grad_by_freq=True)
        (y * seeded(6, 4, seed=2).to(device)).sum().backward()
        z = F.embedding(index, w.detach()) + F.embedding(index, w.detach())  # twice: DTensor asserts
        return y, w.grad, z

    both(two, program)


@pytest.mark.parametrize("order", [float("inf"), -float("inf"), 0, 1, 2, 3])
@pytest.mark.parametrize("placement", [0, 1, "sum"])
def test_norms_of_every_order_and_their_gradients(two: Running, order: float, placement: int | str) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        x = put(seeded(4, 6), placement).requires_grad_()
        x.grad = None
        value = torch.linalg.vector_norm(x, order)
        (value * 2).backward()
        total = torch.nn.utils.clip_grad_norm_([x], 0.5, norm_type=order) if order else value
        return value, x.grad, total

    both(two, program)


def test_statistics_of_what_is_sharded(two: Running) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        made: list[Any] = []
        for placement in (0, 1, "sum"):
            x = put(seeded(4, 6), placement)
            made += [
                x.mean(),
                x.mean(0),
                x.var(),
                x.std(0),
                x.prod(),
                x.max(),
                x.amin(1),
                x.median(),
                x.cumsum(0),
                x.argmax(),
            ]
            made += [x.logsumexp(0), x.softmax(0), x.sort(0), x.topk(2, 1), x.any(), x.count_nonzero(), x.quantile(0.3)]
        return [part for one in made for part in (one if isinstance(one, tuple) else (one,))]

    both(two, program)


def test_shards_that_do_not_divide_are_not_made() -> None:
    text = 'mesh: {d: 2}\nparams: {"**": {d: fully_shard}}\ninputs: {"*": {d: shard(0)}}'
    with sharded(text) as running:

        def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
            model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)).to(device)
            optimizer = torch.optim.AdamW(model.parameters(), fused=True, eps=1e-4)
            model(seeded(3, 5).to(device)).square().mean().backward()
            optimizer.step()
            return list(model.parameters())

        both(running, program)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_and_columns_that_another_worker_has(two: Running, dtype: torch.dtype) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        x, index = put(seeded(6, 4), 0), put(torch.tensor([[0, 5, 3, 2]], dtype=dtype))
        added = x.clone().scatter_add_(0, index.long(), x[:1] * 0 + 1)
        return x.gather(0, index.long()), added, x.scatter_add(0, index.long(), x), F.embedding(index, x)

    both(two, program)


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 4])
def test_the_largest_value_of_parts(two: Running, at: int, strange: float) -> None:
    def program(device: torch.device, put: Callable[..., torch.Tensor]) -> Any:
        values = seeded(6, 4)
        values[at, 1] = strange
        x, n = put(values, 0), put(torch.arange(6), 0)
        return x.amax(0), x.amax(), x.amax(1), x.amax((0, 1), keepdim=True), x.max(), n.amax()

    both(two, program)
