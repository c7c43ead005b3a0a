"""Sites: where in the user's program an instruction was issued.

Each code object of the user has a range of numbers, one per byte of its bytecode. A site is the number of the bytecode at
which the innermost frame outside of PyTorch and GT stands. It travels with the instruction and comes back with its error;
only then is it turned into a file and a line.
"""

from __future__ import annotations

import os
import sys
import threading
from bisect import bisect_right
from threading import get_ident
from types import CodeType, FrameType

import torch

from gt import errors

PACKAGE = os.path.dirname(errors.__file__) + os.sep
"""The folder of GT's own code."""
_INTERNAL = (os.path.dirname(torch.__file__) + os.sep, PACKAGE, "<frozen")
LIMIT = 1 << 17
"""The most code objects in the table; later ones have no lines."""

_first: dict[int, int] = {}
"""id(code) -> the number of its first byte; 0 for code of PyTorch or GT."""
_starts: list[int] = []
_codes: list[CodeType] = []
"""The code objects by their first numbers, `_starts`. Keeping them alive keeps their ids unique."""
_learning = threading.Lock()
_getframe = sys._getframe


fixed: dict[int, int] = {}
"""Thread -> the site of everything that it records while PyTorch's autograd engine runs on it: looked up once."""


def here(depth: int = 2) -> int:
    """The site of the caller's caller, or of the first frame above it that is neither PyTorch's nor GT's; 0 if there is
    none."""
    if fixed and (site := fixed.get(get_ident())):
        return site
    try:
        frame = _getframe(depth)
    except ValueError:  # a thread of PyTorch's own
        return 0
    first = _first.get(id(frame.f_code))
    return first + frame.f_lasti if first else _find(frame)


def _find(frame: FrameType | None) -> int:
    while frame is not None:
        first = _first.get(id(frame.f_code))
        if first is None:
            first = _learn(frame.f_code)
        if first:
            return first + frame.f_lasti
        if first is None:
            return 0
        frame = frame.f_back
    return 0


def _learn(code: CodeType) -> int | None:
    """Give a code object its numbers. Returns the first one, 0 for internal code, or None if the table is full."""
    with _learning:
        if len(_codes) < LIMIT and id(code) not in _first:
            start = _starts[-1] + len(_codes[-1].co_code) if _codes else 1
            _codes.append(code)
            _starts.append(start)
            _first[id(code)] = 0 if code.co_filename.startswith(_INTERNAL) else start
        return _first.get(id(code))


def describe(site: int) -> str:
    """`FILE:LINE` of a site, or the empty string."""
    found = line_of(site)
    return f"{found[0]}:{found[1]}" if found else ""


def line_of(site: int) -> tuple[str, int] | None:
    """The file and the line of a site; None if it has none."""
    if site <= 0 or not _codes:
        return None
    index = bisect_right(_starts, site) - 1
    code, offset = _codes[index], site - _starts[index]
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return code.co_filename, line
    return None
