"""Elements read one by one: two requests to the worker, and never a value from before the last write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

import gt.fakes
from gt.client.session.process import process
from gt.client.session.session import Session
from gt.errors import WorkerLostError

Write = Callable[[torch.Tensor, torch.Tensor], object]
WRITES: dict[str, Write] = {
    "in place": lambda x, view: x.add_(1),
    "through a view": lambda x, view: view.mul_(3),
    "an element": lambda x, view: x[0].fill_(7),
    "a slice": lambda x, view: x.__setitem__(slice(0, 2), 7),
    "through data": lambda x, view: x.data.zero_(),
    "a detached tensor": lambda x, view: x.detach().sub_(2),
    "an upload": lambda x, view: x.copy_(torch.full((4, 4), 9.0)),
    "a copy": lambda x, view: x.copy_(view.t() * 2),
    "out": lambda x, view: torch.add(x, 1, out=x),
    "a mask": lambda x, view: x.masked_fill_(x > 2, -1),
    "a boolean index": lambda x, view: x.__setitem__(x > 2, 5),
    "foreach": lambda x, view: torch._foreach_add_([x], 1),
    "random": lambda x, view: x.uniform_(),
    "other bits": lambda x, view: x.view(torch.int32).add_(1),
    "its storage": lambda x, view: x.untyped_storage().fill_(0),
    "other data": lambda x, view: setattr(x, "data", x + 1),
    "set_": lambda x, view: x.set_((x + 5).contiguous()),
    "swapped": lambda x, view: x.set_(view.contiguous().untyped_storage(), 0, (4, 4), (4, 1)),
    "grown": lambda x, view: x.resize_(5, 4)[4].fill_(2),
    "statistics": lambda x, view: _normalise(x.view(16)),
    "an optimizer": lambda x, view: _step(x),
}  # fmt: skip


def _normalise(average: torch.Tensor) -> None:
    rows = torch.ones(2, 16, device=average.device)
    torch.native_batch_norm(rows, None, None, average, average, True, 0.5, 1e-5)


def _step(x: torch.Tensor) -> None:
    weight = torch.nn.Parameter(x)
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=0.5, fused=True).step()


@contextmanager
def counted() -> Iterator[list[object]]:
    """In a system in this process; what is asked of its worker."""
    asked: list[object] = []
    ask = Session.ask
    Session.ask = lambda self, request: (asked.append(request), ask(self, request))[1]  # type: ignore[method-assign]
    try:
        with gt.fakes.System():
            yield asked
    finally:
        Session.ask = ask  # type: ignore[method-assign]


def numbers(device: str) -> torch.Tensor:
    return torch.arange(16.0, device=device).view(4, 4)


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rows": lambda x: x.reshape(-1),
    "columns": lambda x: x.t().flatten(),
    "parts": lambda x: x[1:, ::2].flatten(),
    "other bits": lambda x: x.view(torch.int32).flatten(),
    "complex": lambda x: torch.view_as_complex(x[:, :2]),
}


@pytest.mark.parametrize("view", VIEWS)
def test_elements_that_are_read_one_by_one_are_fetched_twice_at_most(view: str) -> None:
    with counted() as asked:
        x = numbers("remote")
        element = list(VIEWS[view](x).unbind())
        assert [e.item() for e in element] == [e.item() for e in VIEWS[view](numbers("cpu")).unbind()]
    assert len(asked) <= 2


def test_conjugates_and_negatives_are_read_as_such() -> None:
    def read(device: str) -> list[torch.Tensor]:
        conjugate = torch.view_as_complex(numbers(device)[:, :2]).conj()
        views = [*conjugate, *conjugate, *conjugate.imag]
        return [torch.empty((), dtype=view.dtype).copy_(view) for view in views]

    with counted() as asked:
        got = read("remote")
    assert got == read("cpu")
    assert len(asked) == 2


def test_rows_that_are_read_are_the_programs_own() -> None:
    with counted() as asked:
        x = numbers("remote")
        rows = [row.cpu() for row in x.unbind()]
        rows[2].fill_(100)
        assert x[2].tolist() == [8, 9, 10, 11]
        assert [row.tolist() for row in (*rows[:2], rows[3])] == numbers("cpu")[[0, 1, 3]].tolist()
    assert len(asked) == 2


@pytest.mark.parametrize("write", WRITES)
def test_an_element_that_was_written_is_read_anew(write: str) -> None:
    def read(device: str) -> list[list[float]]:
        torch.manual_seed(0)
        x = numbers(device)
        view = x.t()
        told = []
        for _ in range(3):
            told.append([x[i, j].item() for i in range(4) for j in range(4)])
            told.append([view[j, i].item() for j in range(view.shape[0]) for i in range(view.shape[1])])
            WRITES[write](x, view)
        return told

    with gt.fakes.System():
        got = read("remote")
    assert got == read("cpu")


def test_a_tensor_that_is_only_used_is_not_fetched_again() -> None:
    with counted() as asked:
        x = numbers("remote")
        total = torch.zeros((), device="remote")
        for row in x:
            if row[0].item() > 2:
                total = total + row.sum() * x.max()
        assert len(asked) == 2
        assert total.item() == 114 * 15


def test_a_large_tensor_is_fetched_whole_once_enough_of_it_was_read() -> None:
    with counted() as asked:
        x = torch.arange(50_000.0, device="remote")
        assert [x[i].item() for i in range(100)] == list(range(100))
    assert len(asked) == 7  # 200,000 bytes, at 32 KiB a read


def test_what_is_kept_ends_with_the_worker_and_with_the_session() -> None:
    with gt.fakes.System() as system:
        x = numbers("remote")
        assert [x[0, 1].item() for _ in range(3)] == [1.0] * 3
        system.kill_worker("worker0")
        system.add_worker("other")
        with pytest.raises(WorkerLostError):
            torch.ones(1, device="remote").item()
        with pytest.raises(RuntimeError, match="lost"):
            x[0, 1].item()
        y = numbers("remote")
        assert [y[0, 2].item() for _ in range(3)] == [2.0] * 3
        process.close()
    with gt.fakes.System(), pytest.raises(RuntimeError, match="not known"):
        y[0, 2].item()
