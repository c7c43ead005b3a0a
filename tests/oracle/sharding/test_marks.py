"""What a configuration says of a program's modules: patterns that match nothing, and what enters and leaves scopes."""

from __future__ import annotations

import pytest
import torch

from gt.client.stream.operands import operand
from gt.errors import ConfigError
from gt.placement.digit import OfStorage
from tests.oracle.sharding.systems import sharded


class Net(torch.nn.Module):
    """Two layers that are tied, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)
        self.down.weight = self.up.weight
        self.register_buffer("scale", torch.ones(8))
        self.kept: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up = self.up(x * self.scale)
        down = self.down(up)
        self.kept = [up, down]
        return down


def step(text: str) -> list[OfStorage]:
    """Make a step; returns where the results of both layers are."""
    with sharded(text) as running:
        net = Net().to("remote")
        net(torch.ones(4, 8, device="remote")).sum().backward()
        running.collectives()
        planner = running.planner
        assert planner is not None
        return [planner.storages.state(planner.storages.by_id[operand(t)[0]]).placed for t in net.kept]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('params: {"**.wieght": {x: replicate}}', r"test\.yaml:2: params '\*\*\.wieght' matched nothing .* such as down"),
        ('params: {"up.weigth": {x: replicate}}', r"params 'up.weigth' .*; did you mean up\.weight\?"),
        ('inputs: {"y": {x: replicate}}', r"inputs 'y' matched nothing .* an argument of the root module, such as x"),
        ('scopes: {"upp": {out: {x: replicate}}}', r"scopes 'upp' matched nothing .*; did you mean up\?"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_after_the_first_step(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        step(f"mesh: {{x: 2}}\n{text}")


def test_a_pattern_may_match_either_name_of_a_tied_parameter_a_buffer_or_nothing_first() -> None:
    rules = '"down.weight": {x: replicate}, "scale": {x: replicate}, "**": {x: replicate}, "up.*": {x: replicate}'
    step(f"mesh: {{x: 2}}\nparams: {{{rules}}}\nscopes: {{down: {{}}}}")


def test_scopes_place_what_enters_and_leaves_them() -> None:
    assert step('mesh: {x: 2}\nscopes: {"down": {inputs: {x: shard(1)}}}')[0] == (4,)
    assert step('mesh: {x: 2}\nscopes: {"down": {out: {x: shard(0)}}, "up": {out: {x: shard(1)}}}') == [(4,), (16,)]
