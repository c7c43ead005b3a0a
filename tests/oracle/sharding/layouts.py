"""The example's Qwen3 on every layout of `examples/qwen3/sharding/`, against one worker.

    python -m tests.oracle.sharding.layouts [LAYOUT...] [--case CASE] [--steps N]

Prints a row for each layout: the largest relative differences of losses, of the first step's gradients and of the parameters
at the end, over all cases in float32 and in that under autocast; and the collectives of a step. Exit 1 if any is too large.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gt.placement import config_file
from tests.oracle.sharding.systems import Running, sharded
from tests.oracle.sharding.training import Apart, Trained, apart, train

EXAMPLE = Path(__file__).parents[3] / "examples" / "qwen3"
LAYOUTS = sorted(path.stem for path in (EXAMPLE / "sharding").glob("*.yaml"))
LAYERS = 2
IGNORED = -100
TOLERANCE = Apart(1e-5, 1e-5, 1e-4)
UNDER_AUTOCAST = Apart(1e-2, 2e-2, 2e-2)

Optimizer = Callable[..., torch.optim.Optimizer]
ADAMW: Optimizer = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1, eps=1e-4)
FUSED: Optimizer = partial(ADAMW, fused=True)


@dataclass(frozen=True)
class Case:
    """How the model is trained."""

    optimizer: Optimizer = FUSED
    clip: float | None = 1.0
    tied: bool = False
    rows: tuple[int, ...] = (4,)
    """Of each micro-batch."""
    tokens: int = 16
    autocast: bool = False


CASES = {
    "fused": Case(),
    "foreach": Case(partial(ADAMW, foreach=True)),
    "single": Case(partial(ADAMW, foreach=False)),
    "sgd": Case(partial(torch.optim.SGD, lr=0.1, momentum=0.9), clip=None),
    "tied": Case(tied=True),
    "uneven": Case(rows=(3,), tokens=15),
    "accumulated": Case(rows=(4, 8), clip=None),
    "autocast": Case(partial(ADAMW, lr=1e-3, fused=True), autocast=True),
}


def example() -> Any:
    """The example's module `model`."""
    before = list(sys.path)
    sys.path.insert(0, str(EXAMPLE))
    found = __import__("model")
    sys.path[:] = before
    return found


def batch(step: int, rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and targets, of which every row has another number."""
    generator = torch.Generator().manual_seed(100 * step + rows)
    ids = torch.randint(256, (rows, tokens), generator=generator)
    targets = ids.roll(-1, 1)
    for row in range(rows):
        targets[row, max(1, tokens - 1 - 3 * row) :] = IGNORED
    return ids, targets


def run(layout: str | None, case: Case, steps: int, worker_batch_size: int = 512) -> Trained:
    """Train on a layout; without one, on one worker."""
    sharding = config_file.load(EXAMPLE / "sharding" / f"{layout}.yaml") if layout else None
    with sharded(sharding, worker_batch_size) as running:
        return _train(running, case, steps)


def _train(running: Running, case: Case, steps: int) -> Trained:
    module = example()
    torch.manual_seed(0)
    config = module.Config(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=128,
        tie_word_embeddings=case.tied,
    )
    model = module.Qwen3(config).to("remote")

    def backward(step: int) -> torch.Tensor:
        batches = [batch(step, rows, case.tokens) for rows in case.rows]
        count = sum(int((targets != IGNORED).sum()) for _, targets in batches)
        losses = []
        for ids, targets in batches:
            with torch.autocast("remote", torch.bfloat16, enabled=case.autocast):
                logits = model(ids.to("remote"))
            flat = logits.float().flatten(0, 1), targets.to("remote").flatten()
            if len(batches) == 1:
                loss = torch.nn.functional.cross_entropy(*flat, ignore_index=IGNORED)
            else:
                loss = torch.nn.functional.cross_entropy(*flat, ignore_index=IGNORED, reduction="sum") / count
            loss.backward()
            losses.append(loss.detach())
        return sum(losses[1:], losses[0])

    shown = train(model, case.optimizer(model.parameters()), steps, backward, running.collectives, case.clip)
    if running.planner is not None:
        shown.gathered = running.planner.unruled | dict.fromkeys(running.planner.solver.underivable, 0)
    return shown


def too_far(found: Apart, case: Case) -> bool:
    allowed = UNDER_AUTOCAST if case.autocast else TOLERANCE
    return not (found.loss <= allowed.loss and found.gradient <= allowed.gradient and found.parameter <= allowed.parameter)


def _worst(found: list[Apart]) -> str:
    return str(Apart(*(max(getattr(a, name) for a in found) for name in ("loss", "gradient", "parameter")))) if found else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT", help=", ".join(LAYOUTS))
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    cases = {name: case for name, case in CASES.items() if given.case in (None, name)}
    wanted = {name: run(None, case, given.steps) for name, case in cases.items()}
    failed = []
    print(f"{'layout':16} loss    grads   params  | autocast                | collectives of a step")
    for layout in given.layouts or LAYOUTS:
        began, found, told = time.perf_counter(), {}, ""
        for name, case in cases.items():
            got = run(layout, case, given.steps)
            found[name] = apart(got, wanted[name])
            told = told or ", ".join(f"{count} {kind}" for kind, count in sorted(got.collectives[-1].items()))
            if too_far(found[name], case):
                failed.append(f"{layout} {name}: {found[name]} ({found[name].worst})")
            if got.gathered:
                failed.append(f"{layout} {name}: gathered for want of a rule: {got.gathered}")
        plain = [a for name, a in found.items() if not cases[name].autocast]
        wide = [a for name, a in found.items() if cases[name].autocast]
        print(
            f"{layout:16} {_worst(plain):23} | {_worst(wide):23} | {told} ({time.perf_counter() - began:.0f} s)", flush=True
        )
    print(*failed, sep="\n")
    print(f"{len(failed)} too far apart or gathered")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
