"""What a configuration says of a program's modules: patterns that match nothing, and what enters and leaves scopes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import gt
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


class Alone(torch.nn.Module):
    """A root module of one layer."""

    def __init__(self, up: torch.nn.Module) -> None:
        super().__init__()
        self.up = up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.up(x)
        return result


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_parameters_that_get_their_sizes_in_the_first_call_are_where_they_belong_after_it() -> None:
    with sharded('mesh: {dp: 2}\nparams: {"**": {dp: fully_shard}}\ninputs: {"*": {dp: shard(0)}}') as running:
        net = Alone(torch.nn.LazyLinear(8)).to("remote")
        net(torch.ones(4, 8, device="remote")).sum().backward()
        assert net.up.weight.grad.tolist() == [[4.0] * 8] * 8
        running.collectives()
        planner = running.planner
        assert planner is not None
        for tensor in (net.up.weight, net.up.weight.grad):
            assert planner.storages.state(planner.storages.by_id[operand(tensor)[0]]).placed == (32,)


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


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "up.weight: {x: shard(0)}",
            r"x: dim 0 of \[3, 8\] does not divide by 2; legal: a dim that does, replicate, or fully_shard",
        ),
        ("up.bias: {x: shard(1)}", r"x: dim 1 of a tensor of 1 dims, \[3\]; legal: -1 to 0"),
    ],
)
def test_a_shard_that_a_parameter_cannot_have_is_refused_where_it_is_named(rule: str, message: str) -> None:
    with sharded(f"mesh: {{x: 2}}\nparams:\n  {rule}"), pytest.raises(ConfigError) as refused:
        Alone(torch.nn.Linear(8, 3)).to("remote")(torch.ones(4, 8, device="remote"))
    assert re.search(rf"^test\.yaml:3: '(up\.\w+)' matches '\1': {message}", str(refused.value))


def test_two_root_modules_that_want_one_name_are_refused_until_one_of_them_is_gone() -> None:
    x = torch.ones(4, 8)
    with sharded('mesh: {x: 2}\nparams:\n  "up.*": {x: fully_shard}'):
        one, other = (Alone(torch.nn.Linear(8, 8)).to("remote") for _ in range(2))
        one(x.to("remote")).sum().backward()
        with pytest.raises(
            ConfigError, match=r"^test\.yaml:3: two root modules have a parameter 'up\.weight', Alone and Alone"
        ):
            other(x.to("remote"))
        del one
        other(x.to("remote")).sum().backward()


def test_a_module_may_be_called_under_transforms_and_tracers() -> None:
    def both(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = Alone(torch.nn.Linear(8, 3)).to(device)
        x, parameters = torch.randn(4, 8).to(device), dict(net.named_parameters())

        def loss(given: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(net, given, (rows,)).square().mean()

        whole = torch.func.grad(loss)(parameters, x)
        of_rows = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
        moved = torch.func.jvp(net, (x,), (x,))[1]
        exported = torch.export.export(net, (x,)).module()(x)
        return [t.detach().cpu() for t in (*whole.values(), *of_rows.values(), moved, exported, net(x))]

    with sharded('mesh: {x: 2}\nparams: {"**": {x: fully_shard}}\ninputs: {"*": {x: shard(0)}}\nscopes: {up: {out: {}}}'):
        for got, wanted in zip(both("remote"), both("cpu"), strict=True):
            torch.testing.assert_close(got, wanted)


def test_a_configuration_is_refused_once_there_are_tensors(tmp_path: Path) -> None:
    path = tmp_path / "dp2.yaml"
    path.write_text("mesh: {dp: 2}")
    with sharded(None):
        torch.ones(2, device="remote")
        with pytest.raises(ConfigError, match=r"dp2\.yaml: loaded after tensors were made on workers; load it before"):
            gt.load_config(path)


def test_a_pattern_may_match_either_name_of_a_tied_parameter_a_buffer_or_nothing_first() -> None:
    rules = '"down.weight": {x: replicate}, "scale": {x: replicate}, "**": {x: replicate}, "up.*": {x: replicate}'
    step(f"mesh: {{x: 2}}\nparams: {{{rules}}}\nscopes: {{down: {{}}}}")


def test_scopes_place_what_enters_and_leaves_them() -> None:
    assert step('mesh: {x: 2}\nscopes: {"down": {inputs: {x: shard(1)}}}')[0] == (4,)
    assert step('mesh: {x: 2}\nscopes: {"down": {out: {x: shard(0)}}, "up": {out: {x: shard(1)}}}') == [(4,), (16,)]
