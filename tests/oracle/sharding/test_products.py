"""Meshes of two axes, and parameters that one axis shards and the other one shards fully, in every combination of dims."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from tests.oracle.sharding.systems import sharded
from tests.oracle.sharding.training import Trained, apart, train

RULES = {
    "biases are whole": '"up.weight": {tp: shard(0), dp: fully_shard}, "down.weight": {tp: shard(1), dp: fully_shard}',
    "by other dims": '"up.weight": {tp: shard(0), dp: fully_shard(1)}, "down.weight": {tp: shard(1), dp: fully_shard(1)}',
    "against the grain": '"up.weight": {tp: shard(1), dp: fully_shard}, "down.weight": {tp: shard(0), dp: fully_shard(1)}',
    "both shard": '"up.*": {tp: shard(0), dp: shard(0)}, "down.weight": {tp: shard(1), dp: shard(1)}',
}
REST = '"**": {dp: fully_shard}'


class Net(torch.nn.Module):
    """Two layers, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8), torch.nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))  # type: ignore[no-any-return]


@functools.cache
def trained(rules: str | None) -> Trained:
    """What a training shows in whose middle the state is copied, changed by a step, and loaded again."""
    layout = f'{{mesh: {{dp: 2, tp: 2}}, params: {{{rules}, {REST}}}, inputs: {{"*": {{dp: shard(0)}}}}}}' if rules else None
    with sharded(layout):
        torch.manual_seed(0)
        net = Net().to("remote")
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, eps=1e-4, fused=True)

        def backward(step: int) -> torch.Tensor:
            x = torch.randn(8, 8, generator=torch.Generator().manual_seed(step)).to("remote")
            loss = net(x).square().mean()
            loss.backward()
            return loss.detach()

        train(net, optimizer, 2, backward, clip=1.0)
        kept = copy.deepcopy(net.state_dict())
        train(net, optimizer, 1, backward, clip=1.0)
        net.load_state_dict(kept)
        return train(net, optimizer, 2, backward, clip=1.0)


@pytest.mark.parametrize("name", RULES)
def test_training_is_that_of_one_worker(name: str) -> None:
    found = apart(trained(RULES[name]), trained(None))
    assert found.loss <= 1e-5, found
    assert found.gradient <= 1e-5, found
    assert found.parameter <= 1e-4, found
