"""A sample of PyTorch's module and optimizer databases; for all of them run `python -m tests.oracle.modules`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.oracle import modules
from tests.oracle.database import check_all, surprises
from tests.oracle.modes import MODES

CASES = 6
"""Number of random cases per entry, over dtypes, modes, ways to the device or implementations, and inputs."""
FEWER = {"LBFGS": 1}
"""Entries of which fewer: a case of this one evaluates the loss a hundred times."""


@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("name", modules.DATABASES)
def test_modules_and_optimizers_give_the_cpus_results(name: str, part: int) -> None:
    database = modules.DATABASES[name]
    chosen = database.entries[part::8]
    outcomes = [o for e in chosen for o in check_all(database, [e], FEWER.get(e.name, CASES))]
    assert {o.entry for o in outcomes} == {e.name for e in chosen}
    assert surprises(outcomes) == []


@pytest.mark.parametrize("part", range(4))
def test_a_traced_module_computes_what_it_does_and_leaves_eager_code_as_it_was(part: int) -> None:
    _check_under("trace", part, 8)


OTHERS = [mode for mode in MODES if mode not in ("trace", "export")]


@pytest.mark.parametrize("part", range(len(OTHERS)))
def test_what_runs_under_a_mode_or_a_transform_leaves_eager_code_as_it_was(part: int) -> None:
    _check_under(OTHERS[part], part, 3 * len(OTHERS))


def _check_under(mode: str, part: int, parts: int) -> None:
    database = modules.under(mode)
    outcomes = check_all(database, database.entries[part::parts], 1)
    assert surprises(outcomes) == []


def test_a_lazy_module_moves_before_it_knows_its_shapes() -> None:
    def run(device: str) -> torch.Tensor:
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.LazyBatchNorm1d())
        before = list(module.parameters())
        module.to(device).cpu().double().to(device).float()
        assert all(a is b for a, b in zip(before, module.parameters(), strict=True))
        assert isinstance(before[0], torch.nn.UninitializedParameter)
        given = torch.randn(4, 5, generator=torch.Generator().manual_seed(2)).to(device)
        torch.manual_seed(1)
        return module(given).detach().cpu()  # type: ignore[no-any-return]

    for a, b in zip(run("remote"), run("cpu"), strict=True):
        assert torch.equal(a.to_dense(), b.to_dense())


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (torch.optim.SparseAdam, {}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.SGD, {"lr": 0.1, "foreach": True}),
        (torch.optim.Adagrad, {}),
    ],
)
def test_sparse_gradients_of_an_embedding_move_it_as_on_the_cpu(kind: Any, arguments: dict[str, Any]) -> None:
    def run(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(10, 3, sparse=True).to(device)
        optimizer = kind(embedding.parameters(), **arguments)
        for _ in range(4):
            optimizer.zero_grad()
            for words in ([1, 3, 1, 7], [2, 3]):
                embedding(torch.tensor(words, device=device)).pow(2).sum().backward()
            optimizer.step()
        gradient = embedding.weight.grad
        assert gradient is not None
        assert gradient.is_sparse
        assert gradient.device.type == device
        return [embedding.weight.detach().cpu(), gradient.coalesce().cpu()]

    torch.testing.assert_close(run("remote"), run("cpu"))
