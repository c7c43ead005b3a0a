"""Where in the user's program an instruction was issued.

A site is a number for (code object, instruction offset) of the innermost frame that is neither PyTorch's nor GT's. It
travels with the instruction and comes back with its error; only then is it turned into a file and a line.
"""

from __future__ import annotations

import os
import sys
import threading
from types import CodeType, FrameType

import torch

_INTERNAL = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep, "<frozen")
LIMIT = 1 << 17

_numbers: dict[int, dict[int, int] | None] = {}
"""id(code) -> offset -> site; None for code of PyTorch or GT. `_codes` keeps the code objects, so that ids stay theirs."""
_codes: list[CodeType] = []
_sites: list[tuple[CodeType, int]] = []
_adding = threading.Lock()
_getframe = sys._getframe


class Fixed:
    """The site of everything recorded while an engine of PyTorch runs (0: none): found once, not per instruction."""

    site = 0


def here(depth: int = 2) -> int:
    """The site of the caller's caller."""
    if Fixed.site:
        return Fixed.site
    frame = _getframe(depth)
    offsets = _numbers.get(id(frame.f_code))
    return (offsets and offsets.get(frame.f_lasti)) or _find(frame)


def _find(frame: FrameType | None) -> int:
    while frame is not None:
        offsets = _numbers.get(id(frame.f_code), _numbers)
        if offsets is not None:
            if offsets is _numbers:
                offsets = _learn(frame.f_code)
                continue
            number = offsets.get(frame.f_lasti)
            return _add(frame, offsets) if number is None else number  # type: ignore[arg-type,return-value]
        frame = frame.f_back
    return 0


def _learn(code: CodeType) -> dict[int, int] | None:
    _codes.append(code)
    found: dict[int, int] | None = None if code.co_filename.startswith(_INTERNAL) else {}
    _numbers[id(code)] = found
    return found


def _add(frame: FrameType, offsets: dict[int, int]) -> int:
    with _adding:
        if len(_sites) >= LIMIT:
            return 0
        _sites.append((frame.f_code, frame.f_lasti))
        offsets[frame.f_lasti] = len(_sites)
        return len(_sites)


def describe(site: int) -> str:
    """`FILE:LINE` of a site, or the empty string."""
    if not 0 < site <= len(_sites):
        return ""
    code, offset = _sites[site - 1]
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return f"{code.co_filename}:{line}"
    return f"{code.co_filename}:{code.co_firstlineno}"
