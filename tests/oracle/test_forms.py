"""Calls that differ in nothing but sizes: what follows from one for the others, without inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.testing._internal.common_methods_invocations import op_db

import gt.fakes
from gt.client.calls import asking, inference
from gt.client.kernels import composites, general
from tests.oracle import forms, operators

SAMPLED = ("mm", "cat", "softmax", "sum", "gather", "topk", "nn.functional.pad", "nn.functional.layer_norm", "repeat")


@contextmanager
def counting_inferences(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """In a system in this process; the operators that were inferred."""
    inferred: list[str] = []
    infer, results = inference.infer, composites._results
    monkeypatch.setattr(inference, "infer", lambda op, *rest: (inferred.append(op.name()), infer(op, *rest))[1])
    monkeypatch.setattr(composites, "_results", lambda op, *rest: (inferred.append(op.name()), results(op, *rest))[1])
    with gt.fakes.System():
        yield inferred


def test_what_is_foretold_is_what_inference_says() -> None:
    with gt.fakes.System(), forms.comparing() as compared:
        outcomes = operators.check_all([e for e in op_db if e.name in SAMPLED], 8)
    assert operators.surprises(outcomes) == []
    assert compared.wrong == []
    assert len(compared.calls) > len(SAMPLED)


def test_indices_are_not_waited_for_and_masks_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under `gt explain`, where nobody could answer."""
    queries: list[str] = []
    with gt.fakes.System():
        monkeypatch.setattr(general, "query", lambda op, *rest: (queries.append(op.name()), asking.query(op, *rest))[1])
        found = []
        for device in ("cpu", "remote"):
            x, at = torch.arange(60.0, device=device).view(3, 4, 5), torch.tensor([2, 0, -1], device=device)
            found.append([y.cpu() for y in (x[at], x[:, at], x[at, :, at], x[at[:, None], at], x[..., [1, 3]], x[at[:0]])])
            repeated = x.repeat_interleave(at.abs(), 0, output_size=3)
            found[-1].append(repeated.cpu())
        assert queries == []
        assert all(map(torch.equal, *found))
        assert x[x > 30].tolist() == [*range(31, 60)]
        assert x.repeat_interleave(at.abs(), 0).shape == repeated.shape
    assert queries == ["aten::index.Tensor", "aten::repeat_interleave.Tensor"]


def _layer(device: str) -> Callable[[int, int], torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 2, 40, 0.0, batch_first=True, device=device)

    def run(batch: int, length: int) -> torch.Tensor:
        x = torch.arange(batch * length * 24, device=device).sin().view(batch, length, 24).requires_grad_()
        out = layer(x)
        (grad,) = torch.autograd.grad(out.square().mean(), x)
        return torch.cat([out[:, -1], grad[:, 0]], dim=1).cpu()

    return run


def test_lengths_that_grow_are_inferred_once_or_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    with counting_inferences(monkeypatch) as inferred:
        remote, local = _layer("remote"), _layer("cpu")
        for batch, length in ((5, 7), (5, 8), (4, 9)):
            remote(batch, length)
        inferred.clear()
        for batch, length in ((5, 9), (6, 11), (3, 13), (6, 12), (7, 6)):
            torch.testing.assert_close(remote(batch, length), local(batch, length))
    assert inferred == []


CALLS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mm": torch.mm,
    "add": torch.add,
    "layer_norm": lambda a, b: nn.functional.layer_norm(a, (5,)),
    "cat": lambda a, b: torch.cat([a, b], dim=1),
    "gather": lambda a, b: a.gather(0, b.long()),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "addcmul_": lambda a, b: a.addcmul_(b, b),
}
WRONG = {"mm": ((4, 6), (5, 3)), "add": ((4, 5), (4, 6)), "layer_norm": ((4, 6), (4, 6)), "cat": ((4, 5), (6, 5)),
         "gather": ((4, 5), (3, 6)), "where": ((4, 6), (4, 5)), "addcmul_": ((4, 6), (4, 5))}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_sizes_that_do_not_fit_are_refused_at_the_call(name: str) -> None:
    right = (((3, 5), (5, 2)), ((4, 5), (5, 6))) if name == "mm" else (((3, 5), (3, 5)), ((4, 5), (4, 5)))
    with gt.fakes.System():
        for one, other in right:
            CALLS[name](torch.zeros(one, device="remote"), torch.zeros(other, device="remote"))
        for device in ("cpu", "remote"):
            with pytest.raises(RuntimeError):
                CALLS[name](*[torch.zeros(size, device=device) for size in WRONG[name]])


def test_sizes_that_were_equal_by_chance_are_told_apart() -> None:
    with gt.fakes.System():
        for rows, columns in ((4, 4), (4, 4), (5, 7), (6, 3), (3, 6)):
            x = torch.ones(rows, columns, device="remote")
            assert (x.sum(0).shape, x.sum(1).shape) == ((columns,), (rows,))
            assert torch.arange(columns, device="remote").shape == (columns,)
            assert torch.cat([x, x], dim=1).shape == (rows, 2 * columns)
            assert (x.t() + 1).stride() == (1, columns)
            assert torch.stack([x, x]).shape == (2, rows, columns)
            assert x.repeat(2, 3).shape == (2 * rows, 3 * columns)
