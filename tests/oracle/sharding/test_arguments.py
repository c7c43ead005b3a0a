"""Arguments of the root module: by which names rules find them, and views of larger tensors among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gt.client.stream.operands import operand
from gt.wire import instructions as wire
from tests.oracle.sharding.systems import Running, sharded


class Summed(torch.nn.Module):
    """Adds up what it is given in every way."""

    def forward(self, x: torch.Tensor, batch: dict[str, Any], *more: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        return x + batch["rows"] + batch["pair"][1] + more[0] + named["mask"]


@pytest.mark.parametrize(
    ("patterns", "sharded_ones"),
    [
        ('"*": {x: shard(0)}', "x more mask"),
        ('"**": {x: shard(0)}', "x rows pair more mask"),
        ('0: {x: shard(0)}, "1.rows": {x: shard(0)}', "x rows"),
        ('"batch.pair.1": {x: shard(0)}, 2: {x: shard(0)}', "pair more"),
        ('x: {x: replicate}, mask: {x: shard(0)}, "*": {x: shard(0)}', "more mask"),
    ],
)
def test_arguments_are_placed_by_name_or_position(patterns: str, sharded_ones: str) -> None:
    with sharded(f"mesh: {{x: 2}}\ninputs: {{{patterns}}}") as running:
        given = {name: torch.ones(4, device="remote") for name in ["x", "rows", "pair", "more", "mask"]}
        batch = {"rows": given["rows"], "pair": (None, given["pair"])}
        Summed()(given["x"], batch, given["more"], mask=given["mask"])
        running.collectives()
        assert running.planner is not None
        held = running.planner.storages
        places = {name: held.state(held.by_id[operand(tensor)[0]]).placed for name, tensor in given.items()}
        assert [name for name, placed in places.items() if placed == (2,)] == sharded_ones.split()


@pytest.mark.parametrize("placement", ["{d: shard(0)}", "{d: shard(0), t: replicate}"])
def test_batches_of_a_data_set_that_does_not_divide_are_computed_in_parts(placement: str) -> None:
    def run(device: str, running: Running | None = None) -> list[float]:
        random = torch.Generator().manual_seed(0)
        x, labels = torch.randn(27, 2, 4, generator=random).to(device), torch.arange(27).remainder(5).to(device)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(1), torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 5)).to(
            device
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        losses = []
        for step in range(40):
            batch = slice(step * 7 % 19, step * 7 % 19 + 8)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if running is not None:
                told = running.instructions()
                assert Counter(type(i).__name__ for i in told if isinstance(i, wire.COLLECTIVES)) == {"AllReduce": 2}
                assert {i.outs[0].size[0] for i in told if isinstance(i, wire.Define) and "addmm" in i.op} <= {4}
        return losses

    with sharded(f"{{mesh: {{d: 2, t: 2}}, inputs: {{'*': {placement}}}}}") as running:
        got = run("remote", running)
        held = [len(w.host.sessions[1].memory.storages) for w in running.system.workers.values()]
        assert max(held) < 60, "slices of all batches are kept"
    torch.testing.assert_close(got, run("cpu"), rtol=1e-5, atol=0.0)


ROWS, BATCH = 26, 8
"""A data set whose rows are no multiple of a batch's."""
BATCHES: dict[str, Callable[[torch.Tensor], list[torch.Tensor]]] = {
    "slices": lambda x: [x[i : i + BATCH] for i in range(0, ROWS, BATCH)],
    "slices of what is shuffled": lambda x: [x[torch.arange(ROWS - 1, -1, -1).to(x.device)][:BATCH]],
    "rows by their values": lambda x: [x[x[:, 0] > 0][:4], x[x[:, 0] > 0]],
    "a query that writes": lambda x: [torch.sort(x, 0, out=(x.new_empty(0), x.new_empty(0).long()))[0][:BATCH]],
    "columns and steps": lambda x: [x[:, 1:3], x[1::3], x.t()[:4].t()],
    "one row, expanded": lambda x: [x[:1].expand(BATCH, -1)],
    "no rows": lambda x: [x[:0]],
    "overlapping": lambda x: [x.as_strided((6, 4), (2, 1), 3)],
}


@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("placement", ["shard(0)", "shard(1)"])
def test_views_of_larger_tensors_are_what_they_are_on_a_cpu(batches: str, placement: str) -> None:
    def run(device: str) -> list[torch.Tensor]:
        x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0)).to(device)
        parts = BATCHES[batches](x)
        made = [torch.nn.Identity()(part) * 2 for part in parts]
        if parts[0].stride(0):  # what is expanded takes no writes
            parts[0][:2].add_(parts[0][:2].sum(0))
        return [t.cpu() for t in (*made, *parts, x, *(part.sum() for part in parts))]

    with sharded(f"{{mesh: {{d: 2}}, inputs: {{'*': {{d: {placement}}}}}}}"):
        for got, wanted in zip(run("remote"), run("cpu"), strict=True):
            torch.testing.assert_close(got, wanted)
