"""A ported program has one sequence of random numbers (scripts/ compare the numbers), any other program two."""

from __future__ import annotations

import pytest
import torch

import gt
from gt.client.session import session
from tests.conftest import Run

APART = """
import gt, torch
torch.manual_seed(0)
first = torch.rand(3)
print(torch.equal(torch.rand(3, device="remote").cpu(), first), torch.default_generator is torch._C.default_generator)
second, state = torch.rand(3), torch.get_rng_state()
torch.rand(3, device="remote")
print(torch.equal(torch.get_rng_state(), state), torch.equal(torch.rand(3, device="remote").cpu(), second))
"""


def test_where_nothing_is_ported_the_cpu_and_the_device_draw_apart(run_python: Run) -> None:
    run = run_python(APART)
    assert run.stdout.split() == ["True", "True", "True", "False"], run.stderr


def test_a_training_step_that_draws_asks_the_worker_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gt.nn.Sequential(gt.nn.Linear(4, 4), gt.nn.Dropout(), gt.nn.Linear(4, 1))
    optimizer, x = torch.optim.SGD(model.parameters(), 0.1), gt.randn(8, 4)
    asked = []

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    step().item()
    monkeypatch.setattr(session.Session, "ask", lambda *_: asked.append(_))
    for _ in range(5):
        step()
    assert asked == []
