"""Warnings name a line of the user's or of PyTorch's, and not the line of GT in between."""

from __future__ import annotations

import functools
import itertools
import linecache
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from gt.client.calls import inference
from gt.client.stream.sites import PACKAGE

INFERENCE = inference.infer.__code__
"""A warning from inside it is about the operator that is inferred."""


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_own(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(PACKAGE)


def _blamed(warner: FrameType, filename: str, line: int) -> FrameType | None:
    """The frame outside of GT that a warning should name; None if it names that one, or none of this thread.

    A warning that names its caller's caller counts frames: those of GT are left out.
    """
    stack = list(_stack(warner))
    inside = [i for i, frame in enumerate(stack) if frame.f_code is INFERENCE]
    named = [i for i, f in enumerate(stack) if (f.f_code.co_filename, f.f_lineno) == (filename, line)]
    if inside or (named and _is_own(warner) and _is_own(stack[named[0]])):
        return next(itertools.dropwhile(_is_own, stack[inside[-1] if inside else named[0] :]), None)
    if not named or _is_own(warner):
        return None
    return next(itertools.islice((frame for frame in stack if not _is_own(frame)), named[0], None), None)


def naming_users_line(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """The function that shows a warning, for Python's and C++'s alike, once it has passed the filters."""

    @functools.wraps(original)
    def show_warning(message: Any) -> None:
        frame = _blamed(sys._getframe(1), message.filename, message.lineno)
        if frame is not None:
            message.filename, message.lineno = frame.f_code.co_filename, frame.f_lineno
            message.line = linecache.getline(message.filename, message.lineno)
        original(message)

    return show_warning
