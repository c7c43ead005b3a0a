"""The drawings of `gt explain`'s page, as SVG: the mesh, and what each worker holds."""

from __future__ import annotations

import math
from html import escape

from gt.placement.mesh import Mesh
from gt.planning.footprint import KINDS, Held
from gt.tools.explain_tables import human

MOST = 64
"""The most workers that are drawn."""
COLOURS = dict(zip(KINDS, ("#3b6fb6", "#e08e45", "#6aa67a", "#9c6bb0", "#b9c0cc"), strict=True))
CELL, GAP, LABEL = (92, 44), 6, 64
"""Sizes are in pixels: of a worker's cell (wide, high), between two cells, of the room for the names of rows."""
BAR, LINE = 560, 22
"""The longest bar of memory, and the height of a row of bars."""


def mesh(mesh: Mesh) -> str:
    """The workers as a grid: the last axis across, the one before it down, further axes as one grid below the other."""
    across = mesh.sizes[-1]
    down = mesh.sizes[-2] if len(mesh.sizes) > 1 else 1
    columns, shown = min(across, MOST), min(mesh.ranks, MOST)
    parts = [_name(mesh.axes[-1], i, LABEL + i * (CELL[0] + GAP) + CELL[0] / 2, 14, "middle") for i in range(columns)]
    y = 22.0
    for row in range(math.ceil(shown / columns)):
        first = row * across
        if row and row % down == 0:
            y += 18
        if len(mesh.sizes) > 1:
            place = mesh.coordinate(first)[:-1]
            names = [f"{axis}={index}" for axis, index in zip(mesh.axes, place, strict=False)]
            parts += [_text(name, 0, y + 18 + 13 * i, "faint") for i, name in enumerate(names[-3:])]
        for column in range(min(columns, shown - row * columns)):
            parts.append(_cell(first + column, LABEL + column * (CELL[0] + GAP), y))
        y += CELL[1] + GAP
    if shown < mesh.ranks:
        parts.append(_text(f"and {mesh.ranks - shown:,} more", LABEL, y + 14, "faint"))
        y += 20
    return _svg(LABEL + columns * (CELL[0] + GAP), y, "The mesh of workers", parts)


def _cell(rank: int, x: float, y: float) -> str:
    box = f'<rect class="cell" x="{x}" y="{y}" width="{CELL[0]}" height="{CELL[1]}" rx="5"/>'
    return box + _text(f"rank {rank}", x + CELL[0] / 2, y + CELL[1] / 2 + 4, "", "middle")


def _name(axis: str, index: int, x: float, y: float, anchor: str) -> str:
    return _text(f"{axis}={index}", x, y, "faint", anchor)


def memory(mesh: Mesh, held: Held) -> str:
    """A bar for what each worker holds at the step's peak, by kind."""
    peak = sum(held.at_peak.values()) or 1
    shown = min(mesh.ranks, MOST)
    parts = [_key(i, kind) for i, kind in enumerate(KINDS)]
    for rank in range(shown):
        parts += _bars(rank, 34 + rank * LINE, held, peak)
    height = 34 + shown * LINE
    if shown < mesh.ranks:
        parts.append(_text(f"and {mesh.ranks - shown:,} more, which hold as much", LABEL, height + 12, "faint"))
        height += 18
    return _svg(LABEL + BAR + 110, height, "What each worker holds at the peak of the step", parts)


def _bars(rank: int, y: int, held: Held, peak: int) -> list[str]:
    """One worker's kinds, one after the other."""
    parts, x = [_text(f"rank {rank}", 0, y + 14, "faint")], float(LABEL)
    for kind in KINDS:
        size = held.at_peak.get(kind, 0)
        width = BAR * size / peak
        if size > 0:
            box = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LINE - 5}" fill="{COLOURS[kind]}"'
            parts.append(f"<rect {box}><title>{escape(kind)}: {size:,} bytes</title></rect>")
        x += width
    return [*parts, _text(human(peak), x + 8, y + 14)]


def _key(index: int, kind: str) -> str:
    x = LABEL + index * 138
    box = f'<rect x="{x}" y="6" width="11" height="11" fill="{COLOURS[kind]}"/>'
    return box + _text(kind, x + 16, 16, "faint")


def _text(text: str, x: float, y: float, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return f'<svg {size} role="img" aria-label="{escape(title)}">\n' + "\n".join(parts) + "\n</svg>"
