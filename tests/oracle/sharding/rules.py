"""The table of rules by brute force, on the calls of PyTorch's operator database and on others made by hand.

    python -m tests.oracle.sharding.rules [--op GLOB] [--samples N] [--part I/N]

Prints what was tried and what was wrong, and the operators that have no rule. `--op`: names of entries, or of operators as
workers see them (`aten::mm*`); `--samples`: of an entry and dtype; `--part`: every N-th entry from the I-th.
"""

from __future__ import annotations

import argparse
import fnmatch
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db

from gt.planning import rules
from tests.oracle.operators import name_of
from tests.oracle.sharding import handmade, recorded
from tests.oracle.sharding.recorded import Call
from tests.oracle.sharding.trial import Bench, try_rule

DTYPES = (torch.float32, torch.int64, torch.bool)


@dataclass
class Totals:
    """What was tried, over all calls."""

    with_rule: Counter[str] = field(default_factory=Counter)
    """Calls by operator."""
    without: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    """Calls that fail whole as well."""
    tried: int = 0
    """Sets of labels and digits."""
    passed_on: int = 0
    """Partials."""
    untried: set[str] = field(default_factory=set)
    """Operators with a rule of which no label was tried."""
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Totals) -> None:
        self.with_rule += other.with_rule
        self.without += other.without
        self.failed += other.failed
        self.tried += other.tried
        self.passed_on += other.passed_on
        self.wrong += other.wrong


def try_calls(
    calls: Iterable[Call], rng: random.Random, limit: int | None = None, only: str = "*", per_op: int | None = None
) -> Totals:
    """Try the rules of calls. `limit`: of labels and digits of each call; `per_op`: of calls of each operator."""
    totals, bench, labels = Totals(), Bench(), Counter[str]()
    for call in calls:
        op = call.define.op
        if not fnmatch.fnmatch(op, only) or (per_op is not None and totals.with_rule[op] >= per_op):
            continue
        rule = rules.find(call.define)
        if rule is None:
            totals.without[op] += 1
            continue
        totals.with_rule[op] += 1
        try:
            report = try_rule(bench, call, rule, rng, limit)
        except Exception:  # the whole call fails: nothing to compare with
            totals.failed[op] += 1
            continue
        totals.tried += report.tried
        totals.passed_on += report.passed_on
        labels[op] += report.tried
        totals.wrong += report.wrong
    totals.untried = {op for op in totals.with_rule if not labels[op]}
    return totals


def entries(given: Any) -> list[Any]:
    chosen = list(op_db)
    if given.op and not given.op.startswith("aten::"):
        chosen = [e for e in chosen if fnmatch.fnmatch(name_of(e), given.op) or fnmatch.fnmatch(e.name, given.op)]
    if given.part:
        index, count = map(int, given.part.split("/"))
        chosen = chosen[index::count]
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", metavar="GLOB")
    parser.add_argument("--samples", type=int, metavar="N")
    parser.add_argument("--part", metavar="I/N")
    given = parser.parse_args()
    only = given.op if given.op and given.op.startswith("aten::") else "*"
    began, totals, rng = time.perf_counter(), Totals(), random.Random(0)
    if given.part in (None, "0") or given.part.startswith("0/"):
        totals.add(try_calls(handmade.calls(), rng, only=only))
    seen: set[bytes] = set()
    for entry in entries(given):
        found = try_calls(recorded.of_entry(entry, DTYPES, given.samples, seen), rng, only=only)
        for line in found.wrong[:5]:
            print("wrong", name_of(entry), line, flush=True)
        totals.add(found)
    print(f"operators with a rule {len(totals.with_rule)}, without {len(set(totals.without) - set(totals.with_rule))}")
    print(f"calls with a rule {totals.with_rule.total()}, without {totals.without.total()}")
    print("fail whole:", *sorted(totals.failed))
    print(f"labels and digits tried {totals.tried}, Partials passed on {totals.passed_on}")
    print("without a rule:", *sorted(f"{op.removeprefix('aten::')}({n})" for op, n in totals.without.items()))
    print(f"{len(totals.wrong)} wrong, in {time.perf_counter() - began:.0f} s")
    return 1 if totals.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
