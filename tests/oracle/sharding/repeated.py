"""Programs that repeat themselves, planned with and without looking for their loops: the workers are told the same.

    python -m tests.oracle.sharding.repeated 100 [SEED]

Draws programs that mostly repeat a kind of step of training and now and then do something else, and plans each for every
layout of the example, in batches of random sizes. Prints a row for each program: which share of its instructions needed no
planning, by layout. Ends with an error at the first byte that differs.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch

import gt
from gt.placement import config_file
from gt.placement.layout import Sharding
from gt.planning import storages
from gt.planning.planner import Planner
from gt.planning.snapshot import snapshot
from gt.wire import codec
from gt.wire import instructions as wire
from tests.oracle.sharding.layouts import EXAMPLE, LAYOUTS, batch, example
from tests.oracle.sharding.systems import sharded

F = torch.nn.functional
ONE_WORKER = """
mesh: {x: 1}
scopes:
  "model.layers.*": {out: {x: replicate}}
  "head": {inputs: {x: replicate}, out: {x: replicate}}
"""
"""What a client sends is the same for every layout, but for the scopes that it has rules for."""
SCOPES = """
mesh: {dp: 2}
inputs: {"*": {dp: shard(0)}}
scopes:
  "model.layers.*": {out: {dp: replicate}}
  "head": {inputs: {dp: shard(0)}, out: {dp: replicate}}
"""
ROUNDS = 32
BUCKET_BYTES = 16 << 10
"""So small that a model of this size has several."""


class Program:
    """A program that trains a small model, and what else programs do between, each a method."""

    def __init__(self) -> None:
        module = example()
        torch.manual_seed(0)
        config = module.Config(
            vocab_size=64,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=4,
            intermediate_size=32,
        )
        self.model = module.Qwen3(config).to("remote")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, fused=True)
        self.scales = [torch.ones((), device="remote") for _ in range(2)]
        self.total = torch.zeros((), device="remote")
        self.mask = torch.ones(4, 8, 1, device="remote")
        self.tables = [torch.ones(4, 8, device="remote") for _ in range(2)]
        self.logits = torch.ones(4, 8, 64, device="remote")
        self.source = 1
        self.kept: list[torch.Tensor] = []
        self.steps = 0

    def loss(self, rows: int = 4, masked: bool = False) -> torch.Tensor:
        self.steps += 1
        ids, targets = (t.to("remote") % 64 for t in batch(self.steps, rows, 8))
        logits = self.model(ids)
        self.logits = logits[:4].detach()
        logits = logits * self.mask if masked else logits
        with gt.scope("head"):
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-36)

    def finish(self, clears: bool = True) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(clears)

    def masked(self) -> None:
        self.loss(masked=True).backward()
        self.finish()

    def mask_that_was_computed(self) -> None:
        self.mask = self.logits[..., :1].detach() * 0 + 1

    def mask_that_was_made(self) -> None:
        self.mask = torch.ones(4, 8, 1, device="remote")

    def tables_that_were_computed(self) -> None:
        self.tables = [self.logits[..., 0].detach() * 0 + 1 for _ in range(2)]

    def write_a_row(self) -> None:
        self.loss().backward()
        self.tables[0][:1].copy_(self.tables[self.source][3:])
        self.finish()

    def rows_of_the_same_table(self) -> None:
        self.source = 0

    def train(self) -> None:
        loss = self.loss()
        loss.backward()
        self.finish()
        self.total = self.total + loss.detach()

    def train_and_look(self) -> None:
        loss = self.loss()
        loss.backward()
        self.finish()
        loss.item()

    def keep_the_loss(self) -> None:
        self.kept.append(self.loss())
        self.kept[-1].backward()
        self.finish()

    def accumulate(self) -> None:
        for _ in range(2):
            self.loss().backward()
        self.finish()

    def clear_late(self) -> None:
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def fill_with_zeros(self) -> None:
        self.loss().backward()
        self.finish(clears=False)

    def change_the_rate(self) -> None:
        self.optimizer.param_groups[0]["lr"] *= 0.5
        self.train()

    def one_operand_twice(self) -> None:
        (self.loss() * (self.scales[0] * self.scales[0])).backward()
        self.finish()

    def two_operands(self) -> None:
        (self.loss() * (self.scales[0] * self.scales[1])).backward()
        self.finish()

    def replace_an_operand(self) -> None:
        self.scales[1] = torch.ones((), device="remote")
        self.two_operands()

    def evaluate(self) -> None:
        with torch.no_grad():
            for _ in range(2):
                self.loss().item()

    def another_batch(self) -> None:
        self.loss(rows=6).backward()
        self.finish()

    def write_a_parameter(self) -> None:
        with torch.no_grad():
            self.model.model.layers[0].mlp.up_proj.weight.mul_(0.5)

    def look_at_a_parameter(self) -> None:
        self.model.model.layers[1].mlp.down_proj.weight.cpu()

    def ask(self) -> None:
        self.scales[0].nonzero()

    def forget_a_gradient(self) -> None:
        self.loss().backward()
        self.model.model.layers[0].mlp.up_proj.weight.grad = None
        self.finish()

    def draw(self) -> None:
        F.dropout(self.loss(), 0.5).backward()
        self.finish()


STEADY = 7
CHANGES = {
    "an operand is elsewhere": [
        *["masked"] * STEADY, "mask_that_was_computed", *["masked"] * STEADY, "mask_that_was_made", *["masked"] * STEADY,
    ],
    "two operands are one": [
        "train", "tables_that_were_computed", *["write_a_row"] * STEADY, "rows_of_the_same_table", *["write_a_row"] * STEADY,
    ],
    "gradients had accumulated": [*["train"] * STEADY, "accumulate", *["train"] * STEADY],
}  # fmt: skip
"""Programs whose steps look alike, and are planned otherwise."""

STEPS: dict[str, Callable[[Program], None]] = {
    n: f for n, f in vars(Program).items() if not n.startswith(("_", "loss", "finish"))
}


@cache
def recorded(steps: tuple[str, ...]) -> Sequence[Sequence[wire.FromClient]]:
    """What a client sends for such a program, in batches."""
    sent: list[Sequence[wire.FromClient]] = []
    with sharded(ONE_WORKER) as running:
        assert running.planner is not None
        rewrite = running.planner.rewrite

        def tapped(items: Any) -> list[wire.Instruction]:
            sent.append(items)
            return rewrite(items)

        running.planner.rewrite = tapped  # type: ignore[method-assign]
        program = Program()
        for step in steps:
            STEPS[step](program)
        running.instructions()
    return sent


def drawn(number: int) -> tuple[str, ...]:
    """A program that mostly repeats one or two kinds of steps, and now and then does something else."""
    generator = random.Random(number)
    steps: list[str] = []
    while len(steps) < ROUNDS:
        often = generator.sample([*STEPS], generator.choice([1, 1, 2]))
        steps += [generator.choice([*STEPS]) if generator.random() < 0.1 else step for step in often * (12 // len(often))]
    return tuple(steps)


def cut(batches: Sequence[Sequence[wire.FromClient]], number: int) -> Iterator[Sequence[wire.FromClient]]:
    """The same, in other batches: those of the recording for 0."""
    generator = random.Random(number)
    items = [item for items in batches for item in items]
    while number and items:
        size = generator.choice([1, 7, 100, 512, 4096])
        yield items[:size]
        items = items[size:]
    yield from () if number else batches


def layout(name: str) -> Sharding:
    return (
        config_file.parse(SCOPES, "test.yaml")
        if name == "scopes"
        else config_file.load(EXAMPLE / "sharding" / f"{name}.yaml")
    )


def planners(sharding: Sharding) -> tuple[Planner, Planner]:
    """One that looks for loops, and one that does not: it has to tell somebody what becomes of each instruction."""
    lazy, eager = Planner(sharding), Planner(sharding)
    eager.observer = lambda *_: None
    return lazy, eager


def compared(
    sharding: Sharding, batches: Iterator[Sequence[wire.FromClient]], failures: random.Random | None = None
) -> Planner:
    """Plan both ways, compare every batch, and at the end what the planners know; returns the one that looks for loops."""
    lazy, eager = planners(sharding)
    for number, items in enumerate(batches):
        if failures is not None and failures.random() < 0.01:
            lazy.generators_differ = eager.generators_differ = True
        assert codec.encode(lazy.rewrite(items)) == codec.encode(eager.rewrite(items)), f"batch {number}"
    lazy._repeats.stop()
    assert snapshot(lazy.parameters, None) == snapshot(eager.parameters, None)
    return lazy


def share(name: str, batches: Sequence[Sequence[wire.FromClient]], number: int = 0) -> float:
    """Compare for a layout; returns the share of the instructions that needed no planning."""
    before, storages.BUCKET_BYTES = storages.BUCKET_BYTES, BUCKET_BYTES
    try:
        planner = compared(layout(name), cut(batches, number), random.Random(number) if number % 2 else None)
    finally:
        storages.BUCKET_BYTES = before
    return planner._repeats.repeated / sum(map(len, batches))


def main() -> None:
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for number in range(first, first + int(sys.argv[1])):
        batches = recorded(drawn(number))
        recorded.cache_clear()
        told = [f"{name} {share(name, batches, number):.0%}" for name in [*LAYOUTS, "scopes"]]
        print(f"{number}: {', '.join(dict.fromkeys(drawn(number)))}; no planning: {', '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
