"""The example's loss by chunks on several workers: that of one worker, and few collectives however many chunks there are."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from tests.oracle.qwen3.conftest import scripts as scripts
from tests.oracle.sharding.systems import Running, sharded

VOCABULARY, WIDTH, ROWS, TOKENS, CHUNK = 64, 16, 4, 24, 16
LAYOUTS = {
    "dp2": """mesh: {dp: 2}
params: {"**": {dp: replicate}}
inputs: {"*": {dp: shard(0)}}""",
    "fsdp2": """mesh: {dp: 2}
params: {"**": {dp: fully_shard}}
inputs: {"*": {dp: shard(0)}}""",
    "tp2": """mesh: {tp: 2}
params: {"**.embed.weight": {tp: shard(0)}, "**": {tp: replicate}}""",
    "dp2xtp2": """mesh: {dp: 2, tp: 2}
params: {"**.embed.weight": {tp: shard(0)}, "**": {dp: replicate}}
inputs: {"*": {dp: shard(0)}}""",
}


class Tied(nn.Module):
    """A model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.up = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.up(self.embed(ids))


def rows(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and targets: of every token, of the same number in each row, or of another one in each."""
    random = np.random.default_rng(0)
    ids, targets = random.integers(0, VOCABULARY, (2, ROWS, TOKENS))
    ignored = {"all": 0.0, "even": 0.0, "ragged": 0.3}[kind]
    targets[random.random(targets.shape) < ignored] = -100
    if kind == "even":
        targets[:, : TOKENS // 2] = -100
    return ids, targets


def trained(
    running: Running, loss: ModuleType, kind: str, autocast: bool
) -> tuple[list[float], list[torch.Tensor], Counter[str]]:
    """The losses of three steps, the gradients of the last, and its collectives."""
    ids, targets = rows(kind)
    torch.manual_seed(0)
    model, losses = Tied().to("remote"), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        running.collectives()
        with torch.autocast("remote", torch.bfloat16, enabled=autocast):
            hidden = model(torch.from_numpy(ids).to("remote"))
            total = loss.chunked_cross_entropy(hidden, model.embed.weight, targets, CHUNK)
        (total / int((targets != -100).sum())).backward()
        optimizer.step()
        losses.append(total.item())
        counted, grads = running.collectives(), [p.grad.cpu() for p in model.parameters() if p.grad is not None]
        optimizer.zero_grad()
    return losses, grads, counted


@pytest.mark.parametrize(("layout", "autocast"), [*((name, False) for name in LAYOUTS), ("dp2", True), ("fsdp2", True)])
@pytest.mark.parametrize("kind", ["all", "even", "ragged"])
def test_it_is_that_of_one_worker_and_each_worker_multiplies_its_own_rows(
    layout: str, autocast: bool, kind: str, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.loss, "BLOCK", VOCABULARY // 2)
    with sharded(None) as running:
        losses, grads, _ = trained(running, scripts.loss, kind, autocast)
    with sharded(LAYOUTS[layout]) as running:
        found, own, counted = trained(running, scripts.loss, kind, autocast)
        assert running.planner is not None
        assert running.planner.unruled == {}
    bound = 1e-2 if autocast else 1e-5
    assert found == pytest.approx(losses, rel=bound)
    for one, other in zip(own, grads, strict=True):
        assert (one - other).norm() <= bound * other.norm()
    rest = kind == "ragged"  # the rest of the rows, and so their hidden states, are everybody's
    expected = Counter({"AllReduce dp": 2}) if layout != "tp2" else Counter[str]()  # gradients, loss
    if layout == "fsdp2":
        expected = Counter({"AllReduce dp": 1, "ReduceScatter dp": 1, "AllGather dp": 1})
    if layout != "tp2" and rest:
        expected["AllGather dp"] += 1
    assert Counter({k: n for k, n in counted.items() if k.endswith("dp")}) == expected
    assert "AllGather tp" not in counted  # logits stay where their part of the vocabulary is
