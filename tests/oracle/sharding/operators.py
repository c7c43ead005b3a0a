"""PyTorch's operator database with operands placed at random, against the CPU.

    python -m tests.oracle.sharding.operators [--op GLOB] [--samples N] [--part I/N] [--mesh 2|2x2] [--seed N]

Each tensor of a sample is replicated, sharded by some digit, or (on one axis) a pending sum. A result that differs is wrong;
an error where one device gives a result is a refusal. Prints both, and how many calls on placed operands were computed
sharded, and how many on gathered operands, by choice or for want of a rule. Exit 1 if anything is wrong or refused.
"""

from __future__ import annotations

import argparse
import fnmatch
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_map

from gt.client.stream.operands import operand
from tests.oracle import operators
from tests.oracle.operators import name_of
from tests.oracle.sharding.placing import cut, place_sum, told_of
from tests.oracle.sharding.systems import Running, sharded

TOLERANCES = {"rtol": 1e-4, "atol": 1e-4}
"""Sums of the ranks' parts are rounded otherwise."""
MESHES = {"2": "mesh: {a: 2}", "2x2": "mesh: {a: 2, b: 2}"}
DTYPES = (torch.float32, torch.int64, torch.bool)
SUMS = (torch.float32, torch.int64)
"""dtypes of which pending sums are made."""


@dataclass
class Totals:
    """What was seen. `calls`: of operators with placed operands, "sharded" or "gathered"."""

    samples: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    unruled: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Placer:
    """Sends a sample's tensors to the workers, placed at random."""

    def __init__(self, running: Running, rng: random.Random) -> None:
        self.running, self.rng = running, rng
        self.placed: list[str] = []

    def __call__(self, value: Any) -> Any:
        there = operators.to_remote(value)
        if isinstance(there, torch.Tensor) and there.layout is torch.strided and there.numel():
            self.placed.append(self._place(there))
        return there

    def _place(self, tensor: torch.Tensor) -> str:
        planner = self.running.planner
        assert planner is not None
        with torch.no_grad():
            done = []
            for axis, count in enumerate(planner.mesh.sizes):
                kind = self.rng.random()
                if kind < 0.2:
                    continue
                if kind < 0.35 and tensor.dtype in SUMS and not done:
                    place_sum(self.running, tensor, axis)
                    return f"sum on {axis}"
                done += self._cut(tensor, axis, count)
        return f"{tuple(tensor.shape)}:{','.join(done) or 'whole'}"

    def _cut(self, tensor: torch.Tensor, axis: int, count: int) -> list[str]:
        number, spec, _ = operand(tensor)
        geometry = spec.to_wire()
        dims = [d for d, n in enumerate(geometry.size) if n % count == 0 and geometry.stride[d]]
        if not dims:
            return []
        dim = self.rng.choice(dims)
        share = geometry.size[dim] // count
        weight = self.rng.choice(
            [w for w in range(1, share + 1) if share % w == 0 and (w == share or self.rng.random() < 0.5)]
        )
        cut_there = cut(self.running, number, geometry, axis, weight * geometry.stride[dim])
        return [f"{axis}=dim {dim} digit {weight}"] if cut_there else []


def try_entries(entries: Sequence[Any], mesh: str, rng: random.Random, samples: int | None = None) -> Totals:
    """Try entries of the database."""
    totals = Totals()
    for entry in entries:
        with sharded(MESHES[mesh]) as running, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for dtype in DTYPES:
                for sample in _samples(entry, dtype, rng, samples):
                    _try(totals, running, entry, dtype, sample, rng)
            assert running.planner is not None
            totals.unruled += Counter(running.planner.unruled)
    return totals


def _samples(entry: Any, dtype: torch.dtype, rng: random.Random, limit: int | None) -> Iterator[Any]:
    if not entry.supports_dtype(dtype, "cpu"):
        return
    torch.manual_seed(rng.randrange(1 << 30))
    found = list(operators._samples(entry, dtype, dtype.is_floating_point and entry.supports_autograd))
    yield from found if limit is None or len(found) <= limit else rng.sample(found, limit)


def _try(totals: Totals, running: Running, entry: Any, dtype: torch.dtype, sample: Any, rng: random.Random) -> None:
    gradients = dtype.is_floating_point and entry.supports_autograd
    placer = Placer(running, rng)
    before, operators.tolerances = operators.tolerances, TOLERANCES
    what = f"{name_of(entry)} {dtype}"
    try:
        done = _check(entry, sample, gradients, placer)
    except AssertionError as error:
        totals.wrong.append(f"{what} {placer.placed}: {' '.join(str(error).split())[:200]}")
    except operators.BackwardError as error:
        cause = error.args[0]
        kept = totals.wrong if isinstance(cause, AssertionError) else totals.refused
        kept.append(f"{what} backward {placer.placed}: {type(cause).__name__}: {' '.join(str(cause).split())[:200]}")
    except Exception as error:
        totals.refused.append(f"{what} {placer.placed}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    else:
        totals.samples += done is not None
    finally:
        operators.tolerances = before
        totals.calls += told_of(running)


def _check(entry: Any, sample: Any, gradients: bool, placer: Placer) -> str | None:
    """As `operators.check_sample`, with placed operands."""
    arguments = ((sample.input, *sample.args), sample.kwargs)
    local_args, local_kwargs = tree_map(operators._to_oracle, arguments)
    torch.manual_seed(7)
    try:
        expected = entry(*local_args, **local_kwargs)
    except Exception:
        return None
    args, kwargs = tree_map(placer, tree_map(operators._copy, arguments))
    torch.manual_seed(7)
    got = entry(*args, **kwargs)
    operators.compare(expected, got, values=entry.name not in operators.UNDEFINED)
    if not gradients:
        return "forward"
    return operators._check_gradients(expected, got, (local_args, local_kwargs), (args, kwargs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", metavar="GLOB", default="*")
    parser.add_argument("--samples", type=int, metavar="N")
    parser.add_argument("--part", metavar="I/N", default="0/1")
    parser.add_argument("--mesh", choices=MESHES)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    index, count = map(int, given.part.split("/"))
    chosen = [e for e in op_db if fnmatch.fnmatch(name_of(e), given.op) or fnmatch.fnmatch(e.name, given.op)][index::count]
    began, all_of = time.perf_counter(), Totals()
    for entry in chosen:
        for mesh in [given.mesh] if given.mesh else MESHES:
            found = try_entries([entry], mesh, random.Random(f"{given.seed} {name_of(entry)} {mesh}"), given.samples)
            for kind in ("wrong", "refused"):
                for line in getattr(found, kind)[:3]:
                    print(kind, mesh, line, flush=True)
            all_of.samples += found.samples
            all_of.calls += found.calls
            all_of.unruled += found.unruled
            all_of.wrong += found.wrong
            all_of.refused += found.refused
    print(summary(all_of))
    print(f"in {time.perf_counter() - began:.0f} s")
    return 1 if all_of.wrong or all_of.refused else 0


def summary(totals: Totals) -> str:
    """The shares, and the operators that were gathered most."""
    calls = max(1, totals.calls.total())
    shares = ", ".join(f"{kind} {n / calls:.1%}" for kind, n in sorted(totals.calls.items()))
    gathered = " ".join(f"{op.removeprefix('aten::')}({n})" for op, n in totals.unruled.most_common(40))
    counts = f"{totals.samples} samples equal, {len(totals.wrong)} wrong, {len(totals.refused)} refused"
    return f"gathered for want of a rule: {gathered}\ncalls with placed operands {calls}: {shares}\n{counts}"


if __name__ == "__main__":
    sys.exit(main())
