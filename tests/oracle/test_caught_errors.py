"""Errors that depend on values, where programs catch them: at the call if PyTorch waits on an accelerator too, else once,
later; what was to be written in place can be used afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gt.client.session.process import process
from gt.client.session.room import COUNTED_FROM_BYTES, room
from gt.wire import instructions as wire

Make = Callable[..., torch.Tensor]
SQUARE = (3, 3)
FACTORISATIONS: dict[str, Callable[[Make], Any]] = {
    "cholesky": lambda o: torch.linalg.cholesky(o(*SQUARE)),
    "cholesky of many": lambda o: torch.linalg.cholesky(o(2, *SQUARE)),
    "cholesky into another": lambda o: torch.linalg.cholesky(o(*SQUARE), out=o(*SQUARE)),
    "cholesky_ex that checks": lambda o: torch.linalg.cholesky_ex(o(*SQUARE), check_errors=True),
    "an older cholesky": lambda o: torch.cholesky(o(*SQUARE)),
    "cholesky_inverse": lambda o: torch.cholesky_inverse(o(*SQUARE) * 0),
    "inv": lambda o: torch.linalg.inv(o(*SQUARE)),
    "inverse": lambda o: o(*SQUARE).inverse(),
    "inv into another": lambda o: torch.linalg.inv(o(*SQUARE), out=o(*SQUARE)),
    "inv_ex that checks": lambda o: torch.linalg.inv_ex(o(*SQUARE), check_errors=True),
    "solve": lambda o: torch.linalg.solve(o(*SQUARE), o(3)),
    "solve_ex that checks": lambda o: torch.linalg.solve_ex(o(*SQUARE), o(3), check_errors=True),
    "solve under autograd": lambda o: torch.linalg.solve(o(*SQUARE).requires_grad_(), o(3)),
    "tensorsolve": lambda o: torch.linalg.tensorsolve(o(*SQUARE), o(3)),
    "tensorinv": lambda o: torch.linalg.tensorinv(o(*SQUARE), ind=1),
    "a negative power": lambda o: torch.linalg.matrix_power(o(*SQUARE), -1),
    "lu_factor_ex that checks": lambda o: torch.linalg.lu_factor_ex(o(*SQUARE), check_errors=True),
    "ldl_factor": lambda o: torch.linalg.ldl_factor(o(*SQUARE) * 0),
    "svd": lambda o: torch.linalg.svd(o(*SQUARE) * math.nan),
    "svdvals": lambda o: torch.linalg.svdvals(o(*SQUARE) * math.nan),
    "an older svd": lambda o: torch.svd(o(*SQUARE) * math.nan),
    "pinv": lambda o: torch.linalg.pinv(o(*SQUARE) * math.nan),
    "pinv of what is symmetric": lambda o: torch.linalg.pinv(o(*SQUARE) * math.nan, hermitian=True),
    "matrix_rank": lambda o: torch.linalg.matrix_rank(o(*SQUARE) * math.nan),
    "a nuclear norm": lambda o: torch.linalg.matrix_norm(o(*SQUARE) * math.nan, "nuc"),
    "eigh": lambda o: torch.linalg.eigh(o(*SQUARE) * math.nan),
    "eigvalsh": lambda o: torch.linalg.eigvalsh(o(*SQUARE) * math.nan),
    "eig": lambda o: torch.linalg.eig(o(*SQUARE) * math.nan),
}


def _ones(device: str) -> Make:
    return lambda *size, dtype=torch.float32: torch.ones(*size, dtype=dtype, device=device)


def _raised(case: Callable[[Make], Any], device: str) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one, PyTorch says
        case(_ones(device))
    return caught.type, str(caught.value).splitlines()[0]


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[wire.Instruction]]:
    """Collects the requests that are waited for."""
    asked: list[wire.Instruction] = []
    session = process.session()
    ask = session.ask

    def counted(request: Callable[[int], wire.Instruction]) -> Any:
        asked.append(request(0))
        return ask(request)

    with monkeypatch.context() as patched:
        patched.setattr(session, "ask", counted)
        yield asked


@pytest.mark.parametrize("name", FACTORISATIONS)
def test_a_factorisation_that_fails_is_an_error_at_the_call(name: str) -> None:
    assert _raised(FACTORISATIONS[name], "remote") == _raised(FACTORISATIONS[name], "cpu")


def test_a_factorisation_is_tried_again_with_another_matrix() -> None:
    found = []
    for device in ("cpu", "remote"):
        matrix = torch.ones(3, 3, device=device)
        try:
            factor = torch.linalg.cholesky(matrix)
        except torch.linalg.LinAlgError:
            factor = torch.linalg.cholesky(matrix + 0.1 * torch.eye(3, device=device))
        found.append(factor.cpu())
    assert torch.equal(*found)


def test_what_does_not_check_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.ones(3, 3, device="remote")
    with counting(monkeypatch) as asked:
        torch.linalg.cholesky_ex(matrix)
        torch.linalg.inv_ex(matrix)
        torch.linalg.solve_ex(matrix, matrix)
        torch.linalg.lu_factor_ex(matrix)
    assert asked == []


# -- in place --------------------------------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "index_add_": lambda x, i: x.index_add_(0, i, torch.ones_like(x[:2])),
    "index_copy_": lambda x, i: x.index_copy_(0, i, torch.ones_like(x[:2])),
    "index_fill_": lambda x, i: x.index_fill_(0, i, 5.0),
    "scatter_": lambda x, i: x.scatter_(0, i, 5.0),
    "put_": lambda x, i: x.put_(i, torch.ones_like(x[:2])),
    "an assignment": lambda x, i: x.__setitem__(i, 5.0),
    "a view of it": lambda x, i: x[1:].index_fill_(0, i, 5.0),
    "out=": lambda x, i: torch.index_select(torch.ones_like(x), 0, i.repeat(2), out=x),
    "the sum with what failed": lambda x, i: x[:2].add_(torch.ones_like(x).index_select(0, i)),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_failed_write_is_reported_once_and_what_it_was_to_write_is_as_on_a_cpu(name: str) -> None:
    found = []
    for device in ("cpu", "remote"):
        x, index = torch.arange(4.0, device=device), torch.tensor([1, 8], device=device)
        with pytest.raises((IndexError, RuntimeError)):
            (WRITES[name](x, index), x.add_(1), x.sum().item())
        x[0] += 1
        found.append((x.tolist(), x.sum().item()))
    assert found[0] == found[1]


def test_after_a_synchronize_that_told_of_a_failed_write_all_can_be_used() -> None:
    x, y = torch.arange(4.0, device="remote"), torch.arange(3.0, device="remote")
    index = torch.tensor([8], device="remote")
    x.index_fill_(0, index, 5.0)
    y.index_fill_(0, index, 5.0)
    made = y + 1
    with pytest.raises(IndexError):
        torch.accelerator.synchronize()
    torch.accelerator.synchronize()
    assert (x.tolist(), y.tolist()) == ([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0])
    with pytest.raises(IndexError):
        made.tolist()


def test_another_tensors_failure_leaves_a_failed_write_to_be_reported() -> None:
    x, index = torch.arange(4.0, device="remote"), torch.tensor([8], device="remote")
    picked = torch.ones(2, device="remote").index_select(0, index)
    x.index_fill_(0, index, 5.0)
    for told in (picked, x):
        with pytest.raises(IndexError):
            told.tolist()
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0]


# -- memory ----------------------------------------------------------------------------------------------------------------

BEYOND_ALL = 1 << 45
"""More elements than any machine has bytes."""
LARGE = COUNTED_FROM_BYTES // 4
ALLOCATIONS: dict[str, Callable[[Make], Any]] = {
    "zeros": lambda o: torch.zeros(BEYOND_ALL, device=o(1).device),
    "a copy of what is expanded": lambda o: o(1).expand(BEYOND_ALL).clone(),
    "a product": lambda o: o(1 << 20, 1) * o(1, 1 << 25),
    "a repetition": lambda o: o(1 << 20).repeat(1 << 25),
    "two results": lambda o: o(1).expand(BEYOND_ALL).sort(),
    "a padding": lambda o: F.pad(o(1), (0, BEYOND_ALL)),
}


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_memory_that_is_not_there_is_an_error_at_the_call(name: str) -> None:
    for device in ("cpu", "remote"):
        with pytest.raises(RuntimeError) as caught:
            ALLOCATIONS[name](_ones(device))
        assert "DefaultCPUAllocator: can't allocate memory" in caught.value.args[0]  # what accelerate and Lightning look for
        assert len(caught.value.args) == 1


def test_a_program_that_has_enough_memory_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(LARGE, device="remote")
    monkeypatch.setattr(room, "_left_bytes", 1 << 30)
    with counting(monkeypatch) as asked:
        for _ in range(10):
            x = x * 1.0
    assert asked == []
    assert room._left_bytes == (1 << 30) - 10 * COUNTED_FROM_BYTES


def test_one_that_may_run_out_of_it_waits_and_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(LARGE, device="remote")
    monkeypatch.setattr(room, "_left_bytes", 3 * COUNTED_FROM_BYTES)
    with counting(monkeypatch) as asked:
        for _ in range(5):
            x = x + x
    assert [type(request) for request in asked] == [wire.Synchronize, wire.Stats]
    assert room._left_bytes > 0
