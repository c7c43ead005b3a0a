"""The report of `gt explain` as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gt.planning.report import Report
from gt.tools.explain_tables import PrintedTable, tables


def text(report: Report, title: str) -> str:
    """The report; `title` says what it is about."""
    workers = report.sharding.workers_needed
    head = [f"{report.sharding.source}: mesh {report.sharding.described}, {workers} workers, {title}", ""]
    body = (line for table in tables(report) for line in (*lines(table), ""))
    return "\n".join([*head, *body]).rstrip("\n") + "\n"


def lines(table: PrintedTable) -> Iterable[str]:
    """The lines of a table."""
    yield table.title
    if not table.rows:
        yield f"  {table.without}"
        return
    rows = [table.columns, *table.rows, *([table.total] if table.total else [])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    for row in rows:
        yield "  " + _line(row, widths, table.numbers)
    if table.note:
        yield f"  ({table.note})"


def _line(row: Sequence[str], widths: Sequence[int], numbers: frozenset[int]) -> str:
    pairs = enumerate(zip(row, widths, strict=True))
    return "  ".join(cell.rjust(width) if i in numbers else cell.ljust(width) for i, (cell, width) in pairs).rstrip()
