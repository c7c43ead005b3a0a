"""Warnings are about a line of the user's, or of PyTorch's, and not about the one of GT that stands in between."""

from __future__ import annotations

import builtins
import functools
import linecache
import os
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from gt.client import calls, sites
from gt.wire import messages
from gt.wire.text import printable

GT = os.path.dirname(os.path.dirname(__file__)) + os.sep
INFERENCE = calls.infer.__code__
"""What PyTorch says inside it is about the operator that is inferred."""


def _blamed(frame: FrameType | None, filename: str) -> FrameType | None:
    """The frame around what is about GT, where that is so; None where it is not, or nothing is around it."""
    found = None
    while frame is not None:
        is_about = found is None and frame.f_code.co_filename == filename and filename.startswith(GT)
        found = frame if is_about or frame.f_code is INFERENCE else found
        frame = frame.f_back
    while found is not None and found.f_code.co_filename.startswith(GT):
        found = found.f_back
    return found


def _naming(show: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(show)
    def show_warning(message: Any) -> None:
        frame = _blamed(sys._getframe(1), message.filename)
        if frame is not None:
            message.filename, message.lineno = frame.f_code.co_filename, frame.f_lineno
            message.line = linecache.getline(message.filename, message.lineno)
        show(message)

    return show_warning


_told: dict[str, dict[Any, Any]] = {}
"""File -> what was said of its lines, as Python keeps it for each module."""


_once: set[str] = set()
SAID_AGAIN = "degrees of freedom is <= 0"
"""Of what operators say, what PyTorch does not say just once to a process."""


def warn(said: messages.Warned) -> None:
    """Tell the user what PyTorch said on the worker."""
    text = printable(said.message, kept="\n\t")
    if SAID_AGAIN not in said.message and not torch.is_warn_always_enabled():
        if said.message in _once:
            return
        _once.add(said.message)
    kind = getattr(builtins, said.kind, None)
    category = kind if isinstance(kind, type) and issubclass(kind, Warning) else UserWarning
    line = sites.line_of(said.site)
    if line is None:
        warnings.warn(text, category, stacklevel=2)
    else:
        warnings.warn_explicit(text, category, *line, registry=_told.setdefault(line[0], {}))


def install() -> None:
    """`_showwarnmsg` is where Python and C++ both hand over a warning that no filter holds back."""
    warnings._showwarnmsg = _naming(warnings._showwarnmsg)  # type: ignore[attr-defined]
