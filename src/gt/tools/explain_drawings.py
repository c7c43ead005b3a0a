"""The drawings of `gt explain`'s page, as SVG: the mesh, and what each worker holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from gt.placement.mesh import Mesh
from gt.planning.footprint import KINDS, HeldBytes
from gt.tools.explain_tables import human

MOST = 64
"""The most workers that are drawn."""
COLOURS = dict(zip(KINDS, ("#3b6fb6", "#e08e45", "#6aa67a", "#9c6bb0", "#b9c0cc"), strict=True))
LETTER = 7.4
"""The width of a letter, nearly."""
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
            top = y + CELL[1] / 2 + 4 - 6.5 * (len(names[-3:]) - 1)
            parts += [_text(name, 0, top + 13 * i, "faint") for i, name in enumerate(names[-3:])]
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


def memory(mesh: Mesh, held: HeldBytes) -> str:
    """Bars for what each worker holds, by kind: at the step's peak and at its end, to one scale."""
    scale = BAR / (sum(held.at_peak.values()) or 1)
    shown = min(mesh.ranks, MOST)
    parts, y = _key(), 34
    for when, sizes in (("at the peak", held.at_peak), ("at the end", held.at_end)):
        parts.append(_text(when, LABEL, y + 12, "faint"))
        y += LINE
        for rank in range(shown):
            parts += _bars(rank, y, sizes, scale)
            y += LINE
        y += 8
    if shown < mesh.ranks:
        parts.append(_text(f"and {mesh.ranks - shown:,} more, which hold as much", LABEL, y + 8, "faint"))
        y += 18
    return _svg(LABEL + BAR + 110, y, "What each worker holds", parts)


def _bars(rank: int, y: int, sizes: Mapping[str, int], scale: float) -> list[str]:
    """One worker's kinds, one after the other."""
    parts, x = [_text(f"rank {rank}", 0, y + 13, "faint")], float(LABEL)
    for kind in KINDS:
        size = sizes.get(kind, 0)
        if size > 0:
            box = f'x="{x:.1f}" y="{y}" width="{size * scale:.1f}" height="{LINE - 5}" fill="{COLOURS[kind]}"'
            parts.append(f"<rect {box}><title>{escape(kind)}: {size:,} bytes</title></rect>")
        x += size * scale
    return [*parts, _text(human(sum(sizes.values())), x + 8, y + 13)]


def _key() -> list[str]:
    """What the colours mean."""
    parts, x = [], float(LABEL)
    for kind in KINDS:
        parts.append(
            f'<rect x="{x:g}" y="6" width="11" height="11" fill="{COLOURS[kind]}"/>' + _text(kind, x + 16, 16, "faint")
        )
        x += 34 + LETTER * len(kind)
    return parts


def _text(text: str, x: float, y: float, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return f'<svg {size} role="img" aria-label="{escape(title)}">\n' + "\n".join(parts) + "\n</svg>"
