"""A worker's reports as the user sees them: PyTorch's own exceptions and warnings, with the user's line."""

from __future__ import annotations

import builtins
import warnings
from typing import Any

import torch

from gt import errors
from gt.client.stream import sites
from gt.wire import messages
from gt.wire.text import printable

NOT_RAISED = (StopIteration, StopAsyncIteration)
"""Exceptions that would silently end a loop of the program."""


def exception(failure: messages.Failure) -> BaseException:
    """The exception that a failure on the worker stands for: PyTorch's own type where there is one."""
    kinds = (builtins, torch, torch._C, errors)
    kind = next((k for module in kinds if isinstance(k := getattr(module, failure.kind, None), type)), RuntimeError)
    place = sites.describe(failure.site)
    text = failure.message + (f"\n  in {failure.op}" if failure.op else "") + (f", issued at {place}" if place else "")
    text = printable(text, kept="\n\t")
    if not issubclass(kind, Exception) or issubclass(kind, NOT_RAISED):
        return RuntimeError(text)
    try:
        return kind(text)
    except TypeError:  # it takes more than a text, such as UnicodeDecodeError
        return RuntimeError(f"{failure.kind}: {text}")


_told: dict[str, dict[Any, Any]] = {}
"""File -> the registry of warnings already given for its lines, as Python keeps one per module."""


_once: set[str] = set()
SAID_AGAIN = "degrees of freedom is <= 0"
"""A part of those warnings of operators that PyTorch does not limit to one per process."""


def warn(said: messages.Warned) -> None:
    """Show the user a warning that PyTorch gave on the worker."""
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
