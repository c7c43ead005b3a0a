"""`gt check`: one training step on the workers of a configuration and on one, and every tensor that has a name compared."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gt.placement import config_file
from gt.tools.comparison import Compared, Limits, compare
from gt.tools.explain_tables import PrintedTable, Row, count
from gt.tools.explain_text import lines
from gt.tools.script import never_trained, running, shown, status_of
from gt.tools.tensor_file import TensorFile

FILE = "tensors.safetensors"
"""What the program writes, `gt.client.patches.checked`."""
SHOWN = 10
"""Rows of the table."""


@dataclass(frozen=True)
class ProgramRun:
    """A run of the program: what messages call it, and its settings."""

    name: str
    settings: Mapping[str, str | None]


def check(config: str, command: Sequence[str], limits: Limits) -> int:
    """Print how far the tensors are apart; returns 1 if any is too far, else 0.

    Raises ConfigError for a wrong file, ScriptError for a program that failed or made no step.
    """
    sharding = config_file.load(config)
    many = ProgramRun(f"on {sharding.workers_needed} workers", {"GT_CONFIG": config})
    one = ProgramRun("on one worker", {"GT_CONFIG": None, "GT_WORKERS": "1"})
    with tempfile.TemporaryDirectory(prefix="gt-") as folder:
        got, wanted = (_step(run, command, Path(folder, str(i))) for i, run in enumerate((many, one)))
        found = compare(got, wanted, limits)
    print(f"{sharding.source}: mesh {sharding.described}, {many.name} and {one.name}, step 1 of: {shown(command)}\n")
    print("\n".join(lines(_table(found))))
    first = next((row for row in found if row.differs), None)
    if first is None:
        return 0
    print(f"\n{first.name} differs: {_said(first)}")
    return 1


def _step(run: ProgramRun, command: Sequence[str], folder: Path) -> TensorFile:
    """Run the program to the end of its first step; returns the tensors that it wrote."""
    folder.mkdir()
    print(f"gt check: {run.name}", file=sys.stderr, flush=True)
    with running(command, {**run.settings, "GT_INSPECT": f"check:{folder}"}) as process:
        status = status_of(process)
    if not (folder / FILE).exists():
        raise never_trained(f"check, {run.name}", command, 1, 0, status)
    return TensorFile(folder / FILE)


def _table(found: Sequence[Compared]) -> PrintedTable:
    worst = sorted(found, key=lambda row: -row.severity)[:SHOWN]
    far = sum(row.differs for row in found)
    rows = [_row(one) for one in worst]
    title = f"The worst of {count(len(found))} tensors, of which {count(far) if far else 'none'} differ{'s' * (far == 1)}"
    return PrintedTable(title, ("tensor", "dtype", "size", "relative difference", "allowed", ""), rows, frozenset({3, 4}))


def _row(one: Compared) -> Row:
    difference = one.reason or f"{one.difference:.1e}"
    return one.name, one.dtype, one.size, difference, f"{one.limit:g}", "differs" if one.differs else ""


def _said(one: Compared) -> str:
    return one.reason or f"by {one.difference:.1e} relative to one worker; allowed: {one.limit:g}"
