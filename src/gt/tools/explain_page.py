"""The report of `gt explain` as one page of HTML, which loads nothing."""

from __future__ import annotations

from html import escape

from gt.planning.report import Report
from gt.tools import explain_drawings as drawings
from gt.tools.explain_tables import PrintedTable, Row, tables

STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --faint: #68707f; --line: #dfe3ea; --page: #fff; --band: #f5f7fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ee; --faint: #98a0b0; --line: #353b48; --page: #171a21; --band: #1f232c; }
}
body { margin: 0 auto; max-width: 74rem; padding: 2rem 1.5rem 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .5rem; }
p { margin: .25rem 0; color: var(--faint); }
code, td, th, svg { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
code { font-size: .9em; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 12.5px; min-width: 50%; }
th { text-align: left; font-weight: 600; color: var(--faint); border-bottom: 1px solid var(--line); }
th, td { padding: .28rem .9rem .28rem .3rem; white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
tfoot td { border-top: 1px solid var(--line); font-weight: 600; }
.number { text-align: right; }
svg { font-size: 12px; max-width: 100%; height: auto; }
svg text { fill: var(--ink); } svg .faint { fill: var(--faint); } svg .cell { fill: var(--band); stroke: var(--line); }
"""


def page(report: Report, title: str) -> str:
    """The page; `title` says what the report is about."""
    sharding = report.sharding
    head = f"{sharding.source}: mesh {sharding.described}"
    placed, laid, moved, memory, *gathered = map(_table, tables(report))
    parts = [
        f"<h1>{escape(head)}</h1>",
        f"<p>{sharding.workers_needed} workers, <code>{escape(title)}</code></p>",
        "<h2>The mesh</h2>",
        drawings.mesh(sharding.mesh),
        memory,
        drawings.memory(sharding.mesh, report.held()),
        placed,
        laid,
        moved,
        *gathered,
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(head)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _table(table: PrintedTable) -> str:
    title = f"<h2>{escape(table.title)}</h2>\n"
    if not table.rows:
        return f"{title}<p>{escape(table.without)}</p>"
    head = _row(table.columns, table, "th")
    body = "\n".join(_row(row, table, "td") for row in table.rows)
    foot = f"<tfoot>{_row(table.total, table, 'td')}</tfoot>\n" if table.total else ""
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    rows = f"<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n{foot}"
    return f'{title}<div class="wide"><table>\n{rows}</table></div>{note}'


def _row(cells: Row, table: PrintedTable, tag: str) -> str:
    def cell(index: int, text: str) -> str:
        kind = ' class="number"' if index in table.numbers else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    return f"<tr>{''.join(cell(i, text) for i, text in enumerate(cells))}</tr>"
