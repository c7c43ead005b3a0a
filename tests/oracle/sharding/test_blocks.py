"""`with gt.scope(name):` blocks that a configuration places: what enters and leaves them, forth and back."""

from __future__ import annotations

import pytest
import torch

import gt
from gt.client.stream.operands import operand
from gt.errors import ConfigError
from gt.placement.digit import OfStorage
from tests.oracle.sharding.systems import Running, sharded

ROWS: OfStorage = (16,)
"""A tensor of 4 x 8 elements whose rows are sharded over two workers."""
COLUMNS: OfStorage = (4,)
WHOLE: OfStorage = (None,)


class Net(torch.nn.Module):
    """A layer, a block of two operations, and something behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8, bias=False)
        self.kept: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.layer(x)
        with gt.scope("block"):
            inner = before.relu()
            with gt.scope("nested"):
                nested = inner * 2
            result = nested.sin()
        after = result + 1
        self.kept = {"before": before, "inner": inner, "nested": nested, "result": result, "after": after}
        for tensor in self.kept.values():
            if tensor.requires_grad:
                tensor.retain_grad()
        return after


def placed(running: Running, tensor: torch.Tensor) -> OfStorage:
    assert running.planner is not None
    return running.planner.storages.state(running.planner.storages.by_id[operand(tensor)[0]]).placed


def step(scopes: str, device: str = "remote") -> tuple[dict[str, OfStorage], dict[str, OfStorage]]:
    """Make two steps; returns where tensors are after them, and where their gradients are. The values are the CPU's."""
    torch.manual_seed(0)
    local = Net()
    with sharded(f"mesh: {{x: 2}}\nscopes: {scopes}") as running:
        net = Net().to("remote")
        net.load_state_dict(local.state_dict())
        for _ in range(2):
            for one in (net, local):
                one(torch.linspace(-1, 1, 32).view(4, 8).to(one.layer.weight.device)).square().sum().backward()
        running.instructions()
        values, gradients = {}, {}
        for name, tensor in net.kept.items():
            values[name] = placed(running, tensor)
            assert tensor.grad is not None
            gradients[name] = placed(running, tensor.grad)
        for name, tensor in net.kept.items():
            expected = local.kept[name]
            torch.testing.assert_close(tensor.cpu(), expected)
            torch.testing.assert_close(tensor.grad.cpu(), expected.grad)  # type: ignore[union-attr]
        return values, gradients


def only(name: str, where: OfStorage, found: dict[str, OfStorage]) -> bool:
    """Whether of all that was computed up to there only the one with this name is placed so."""
    names = list(found)
    before = names[: names.index(name)]
    return found[name] == where and all(found[other] == WHOLE for other in before)


def test_the_results_of_a_block() -> None:
    values, _ = step("{block: {out: {x: shard(1)}, backward: {out: {}}}}")
    assert only("result", COLUMNS, values)


def test_what_a_block_uses() -> None:
    values, gradients = step("{block: {inputs: {x: shard(1)}}}")
    assert only("before", COLUMNS, values)
    assert gradients["after"] == gradients["result"]


def test_the_gradients_that_leave_its_backward_pass() -> None:
    values, gradients = step("{block: {backward: {out: {x: shard(1)}}}}")
    assert set(values.values()) == {WHOLE}
    assert gradients == dict.fromkeys(gradients, WHOLE) | {"before": COLUMNS}
    _, gradients = step("{block: {out: {x: shard(1)}}}")
    assert gradients["before"] == COLUMNS
    _, gradients = step("{block: {out: {x: shard(1)}, backward: {out: {x: replicate}}}}")
    assert gradients["before"] == WHOLE


def test_a_block_inside_another_one() -> None:
    values, gradients = step("{nested: {out: {x: shard(1)}, backward: {out: {x: replicate}}}}")
    assert only("nested", COLUMNS, values)
    assert gradients["inner"] == WHOLE
    values, _ = step("{nested: {out: {x: shard(1)}}, block: {out: {x: shard(0)}}}")
    assert values["nested"] == COLUMNS
    assert values["result"] == ROWS


def test_a_result_that_is_used_only_inside_stays_where_it_is() -> None:
    values, _ = step("{nested: {inputs: {x: shard(0)}, out: {x: shard(0)}}, block: {out: {x: replicate}}}")
    assert values["inner"] == ROWS
    assert values["result"] == WHOLE


def test_a_block_that_no_rule_names_is_not_placed_and_a_rule_that_names_no_block_is_refused() -> None:
    values, _ = step('{"b*k": {out: {x: shard(1)}}}')
    assert values["result"] == COLUMNS
    with pytest.raises(ConfigError, match=r"scopes 'blok' matched nothing .*; did you mean block\?"):
        step("{blok: {out: {x: shard(1)}}}")


def test_blocks_of_past_steps_are_forgotten() -> None:
    with sharded("mesh: {x: 2}\nscopes: {block: {out: {x: shard(0)}}}") as running:
        net = Net().to("remote")
        for _ in range(5):
            net(torch.ones(4, 8, device="remote")).sum().backward()
        net.kept.clear()
        running.instructions()
        assert running.planner is not None
        blocks = running.planner._blocks
        with gt.scope("block"):
            pass
        running.instructions()
        assert len(blocks._blocks) <= 1
        assert not blocks.made_in
