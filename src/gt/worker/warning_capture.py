"""Captures PyTorch's warnings in the first run of a call, for the client to tell the user.

Operators warn in C++. Such a warning becomes Python's only inside PyTorch's own bindings; elsewhere it is printed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from gt.wire.messages import Warned

T = TypeVar("T")
SAID_BY_CLIENTS = (
    "An output with one or more elements was resized",
    "Casting complex values to real",
    "Sparse CSR tensor support is in beta",
    "index_reduce() is in beta",
    "indexing with dtype torch.uint8",
)
"""Beginnings of warnings that the client gives itself, by inference or in what it composes."""
_one = torch.zeros(1, device="cpu")
"""Its `apply_` is a binding that calls a function."""


def listen(run: Callable[[], T], site: int) -> tuple[T, list[Warned]]:
    """The result of `run()` and its warnings. Raises as `run` does. `site`: the number of the user's line."""
    results: list[T] = []

    def run_once(_: float) -> float:
        results.append(run())
        return 0.0

    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # each session hears what PyTorch says only once to a process
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _one.apply_(run_once)
    finally:
        torch.set_warn_always(always)
    told = [w for w in caught if not str(w.message).startswith(SAID_BY_CLIENTS)]
    return results[0], [Warned(w.category.__name__, str(w.message), site) for w in told]
