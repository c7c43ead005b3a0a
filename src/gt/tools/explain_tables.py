"""The report of `gt explain` as tables of words, which both its text and its page show."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gt.planning.footprint import KINDS
from gt.planning.report import Placed, Report, Route, Traffic

Row = tuple[str, ...]
ROOT = "(root)"
"""The scope of what is in no module but the outermost."""
Key = TypeVar("Key", bound=Hashable)
_NUMBER = re.compile(r"(?<![^./])[0-9]+(?![^./])")


@dataclass(frozen=True)
class PrintedTable:
    """`numbers` are the columns that are aligned to the right; `without` is said where there are no rows."""

    title: str
    columns: Row
    rows: Sequence[Row]
    numbers: frozenset[int] = frozenset()
    without: str = "none"
    total: Row | None = None
    note: str = ""


def tables(report: Report) -> list[PrintedTable]:
    """All tables of a report."""
    return [placements(report), laid(report), collectives(report), memory(report), unruled(report), underivable(report)]


def count(number: int) -> str:
    """A number with separators."""
    return f"{number:,}"


def human(size_bytes: int) -> str:
    """Bytes for people."""
    size, units = float(size_bytes), ["B", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    return f"{size:.4g} {units[0]}" if size < 1024 else f"{size:,.0f} {units[0]}"


def placements(report: Report) -> PrintedTable:
    """Named tensors by scope: their placements, and the lines that cause these."""
    rows = [_placement(names, one) for names, one in _alike(report.placed(), _placed_key)]
    whole, local = sum(p.size_bytes for p in report.placed()), sum(p.local_bytes for p in report.placed())
    return PrintedTable(
        f"Parameters and buffers: {count(whole)} bytes, {count(local)} on each worker",
        ("scope", "tensor", "dtype", "size", "placement", "on a worker", "bytes there", "because of"),
        rows,
        frozenset({6}),
        "no module has any",
    )


def _placement(names: Sequence[str], one: Placed) -> Row:
    scope, _, name = _together(names).rpartition(".")
    there = count(len(names) * one.local_bytes)
    size, local = _size(one.size), _size(one.local_size)
    return scope or ROOT, name, one.dtype, size, one.placement, local, there, _line(one.origin)


def _line(origin: str) -> str:
    """Without the folders of the file, which the report names once."""
    return os.path.basename(origin) or "no rule"


def _size(size: Sequence[int]) -> str:
    return "x".join(map(str, size)) or "1"


def _placed_key(one: Placed) -> tuple[str, Hashable]:
    return one.name, (one.size, one.dtype, one.placement, one.origin)


def laid(report: Report) -> PrintedTable:
    """Inputs, and what enters and leaves scopes."""
    rows = [
        (_together(names), one.dtype, _size(one.size), one.placement, _line(one.origin))
        for names, one in _alike(report.laid(), lambda one: (one.name, (one.size, one.dtype, one.placement, one.origin)))
    ]
    return PrintedTable(
        "Placed by rules for inputs and scopes", ("tensor", "dtype", "size", "placement", "because of"), rows
    )


def collectives(report: Report) -> PrintedTable:
    """The collectives of the step."""
    moved = report.moved()
    rows = [_collective(names, *entry) for names, entry in _alike(list(moved.items()), _moved_key)]
    columns = ("phase", "scope", "collective", "axis", "of", "times", "tensors", "bytes", "for")
    sums = (count(sum(getattr(one, which) for one in moved.values())) for which in ("count", "tensors", "size_bytes"))
    total = ("in all", "", "", "", "", *sums, "") if rows else None
    return PrintedTable("Collectives of the step", columns, rows, frozenset({5, 6, 7}), "none", total)


def _collective(names: Sequence[str], route: Route, one: Traffic) -> Row:
    sums = (count(len(names) * n) for n in (one.count, one.tensors, one.size_bytes))
    return route.phase, _together(names) or ROOT, route.kind, route.axis, route.what, *sums, route.op


def _moved_key(entry: tuple[Route, Traffic]) -> tuple[str, Hashable]:
    route, moved = entry
    return route.scope, (route._replace(scope=""), moved.count, moved.tensors, moved.size_bytes)


def memory(report: Report) -> PrintedTable:
    """What each worker holds."""
    held = report.held()
    return PrintedTable(
        f"Memory of each of the {report.sharding.workers_needed} workers, which hold equally much",
        ("bytes of", "at the step's end", "", "at its peak", ""),
        [_memory(kind, held.at_end.get(kind, 0), held.at_peak.get(kind, 0)) for kind in KINDS],
        frozenset({1, 2, 3, 4}),
        total=_memory("in all", sum(held.at_end.values()), sum(held.at_peak.values())),
        note=f"before the step at most {count(report.peak_before)}",
    )


def _memory(kind: str, end: int, peak: int) -> Row:
    return kind, count(end), human(end), count(peak), human(peak)


def unruled(report: Report) -> PrintedTable:
    """What was gathered because no rule exists."""
    entries = [(op, one) for (op, _), one in report.unruled().items()]
    rows = [
        (op, _together(names) or ROOT, count(len(names) * one.count), count(len(names) * one.size_bytes))
        for names, (op, one) in _alike(entries, lambda e: (e[1].scope, (e[0], e[1].count, e[1].size_bytes)))
    ]
    return PrintedTable(
        "Gathered because the operator has no rule, and computed whole by every worker",
        ("operator", "scope", "times", "bytes"),
        rows,
        frozenset({2, 3}),
    )


def underivable(report: Report) -> PrintedTable:
    """Which views could not be derived."""
    rows = sorted(report.underivable().items())
    return PrintedTable("Gathered because a worker's part of a view is not a view", ("operator", "why"), rows)


# -- layers that are alike are one row -----------------------------------------------------------------------------------


def _alike(entries: Sequence[Key], key: object) -> Iterable[tuple[list[str], Key]]:
    """Entries in order, those together whose names differ in numbers only and whose other words are equal."""
    found: dict[Hashable, tuple[list[str], Key]] = {}
    for entry in entries:
        name, rest = key(entry)  # type: ignore[operator]
        found.setdefault((_NUMBER.sub("#", name), rest), ([], entry))[0].append(name)
    return found.values()


def _together(names: Sequence[str]) -> str:
    """One name for several that differ in numbers: `layers.{0..3}.mlp`."""
    if len(names) == 1:
        return names[0]
    pieces = [_NUMBER.findall(name) for name in names]
    columns = iter([sorted(set(map(int, column))) for column in zip(*pieces, strict=True)])
    return _NUMBER.sub(lambda _: _range(next(columns)), names[0])


def _range(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    dense = numbers[-1] - numbers[0] + 1 == len(numbers)
    return f"{{{numbers[0]}..{numbers[-1]}}}" if dense and len(numbers) > 2 else "{" + ",".join(map(str, numbers)) + "}"
