"""What PyTorch warns of while a call runs for the first time, which the client tells the user.

Operators warn in C++. That becomes a warning of Python's inside PyTorch's own bindings alone; elsewhere it is printed.
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
"""How those begin that inference, or what is composed in the client, says there too."""


def listen(run: Callable[[], T], site: int) -> tuple[T, list[Warned]]:
    """The result of `run()`, and what was said meanwhile."""
    results: list[T] = []

    def run_once(_: float) -> float:
        results.append(run())
        return 0.0

    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # what PyTorch says once to a process, each of its sessions hears
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.zeros(1, device="cpu").apply_(run_once)  # a binding that calls what it is given
    finally:
        torch.set_warn_always(always)
    told = [w for w in said if not str(w.message).startswith(SAID_BY_CLIENTS)]
    return results[0], [Warned(w.category.__name__, str(w.message), site) for w in told]
