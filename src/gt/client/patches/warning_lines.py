"""Warnings name a line of the user's or of PyTorch's, and not the line of GT in between."""

from __future__ import annotations

import functools
import linecache
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from gt.client.calls import inference
from gt.client.stream.sites import PACKAGE

INFERENCE = inference.infer.__code__
"""A warning from inside it is about the operator that is inferred."""


def _blamed(frame: FrameType | None, filename: str) -> FrameType | None:
    """The frame outside of GT that a warning about a line of GT should name; None for other warnings."""
    found = None
    while frame is not None:
        is_about = found is None and frame.f_code.co_filename == filename and filename.startswith(PACKAGE)
        found = frame if is_about or frame.f_code is INFERENCE else found
        frame = frame.f_back
    while found is not None and found.f_code.co_filename.startswith(PACKAGE):
        found = found.f_back
    return found


def naming_users_line(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """The function that shows a warning, for Python's and C++'s alike, once it has passed the filters."""

    @functools.wraps(original)
    def show_warning(message: Any) -> None:
        frame = _blamed(sys._getframe(1), message.filename)
        if frame is not None:
            message.filename, message.lineno = frame.f_code.co_filename, frame.f_lineno
            message.line = linecache.getline(message.filename, message.lineno)
        original(message)

    return show_warning
