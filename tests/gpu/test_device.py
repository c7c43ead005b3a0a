"""A worker on a CUDA device gives the results of local PyTorch on that device, and the same bits every time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

import gt
from tests.gpu.conftest import DRY_RUN
from tests.oracle import operators

STEPS = 3 if DRY_RUN else 50
EVERY, PARTS = (240, 2) if DRY_RUN else (48, 6)
"""Each part takes one in this many entries of the operator database."""


def test_the_worker_is_on_the_device(local: torch.device) -> None:
    place = gt.debug.where(torch.ones(2, device="remote"))
    assert [torch.device(worker.device).type for worker in place.workers] == [local.type]


@pytest.mark.parametrize("part", range(0, EVERY, EVERY // PARTS))
def test_a_sample_of_the_operator_database_gives_the_results_of_local_pytorch(
    part: int, local: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "oracle", local)
    outcomes = operators.check_all(op_db[part::EVERY])
    assert outcomes
    assert operators.surprises(outcomes) == []


class Net(torch.nn.Module):
    """Attention, normalisation, dropout and a loss: kernels that are deterministic on CUDA."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(64, 32)
        self.attention = torch.nn.Linear(32, 96)
        self.norm = torch.nn.LayerNorm(32)
        self.dropout = torch.nn.Dropout(0.1)
        self.head = torch.nn.Linear(32, 64)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        query, key, value = self.attention(self.norm(x)).chunk(3, -1)
        weights = (query @ key.transpose(-1, -2) / 32**0.5).softmax(-1)
        return self.head(x + self.dropout(weights @ value))


def train(model: Net, device: str | torch.device) -> list[float]:
    """The loss of each step, from one seed."""
    ids = torch.arange(4 * 16).reshape(4, 16).to(device)
    model = copy.deepcopy(model).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    torch.manual_seed(1)
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten().roll(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [float(loss) for loss in torch.stack(losses).cpu()]


def test_training_again_gives_the_same_bits(local: torch.device) -> None:
    torch.manual_seed(0)
    model = Net()
    first, again = train(model, "remote"), train(model, "remote")
    assert first == again
    assert first[-1] < first[0]


def test_training_gives_the_losses_of_local_pytorch(local: torch.device) -> None:
    torch.manual_seed(0)
    model = Net()
    model.dropout.p = 0.0  # the two sides draw independently
    torch.testing.assert_close(train(model, "remote"), train(model, local), rtol=1e-4, atol=1e-5)
