"""PyTorch's inference in Python, without its compiler.

Functions of `torch._refs` are marked as not to be compiled, and the first call of one imports `torch._dynamo` to say so,
which would delay a program's first `x + 1` by a second. As long as nobody else has imported the compiler, nothing is
compiled, so the functions are called as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._decomp import global_decomposition_table

MARK = "__dynamo_disable"
"""The attribute in which `torch._disable_dynamo` keeps the function that it calls instead of a marked one."""
_MARKED = torch._disable_dynamo(lambda: None).__code__


def _marked(function: Any) -> Iterator[Any]:
    """The marked functions among those that a function wraps."""
    while hasattr(function, "__code__"):
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        inner = cells["fn"].cell_contents if "fn" in cells else None
        if function.__code__ is _MARKED:
            yield inner
        function = inner


def _calling(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        dynamo = sys.modules.get("torch._dynamo")
        if not hasattr(dynamo, "disable"):
            return function(*args, **kwargs)
        disabled = dynamo.disable(function, True, wrapping=False)  # type: ignore[union-attr]
        setattr(function, MARK, disabled)
        return disabled(*args, **kwargs)

    return call


def install() -> None:
    """Called before the first inference; does nothing if the compiler has been imported."""
    if "torch._dynamo" in sys.modules:
        return
    references = [vars(module) for name, module in list(sys.modules.items()) if name.startswith("torch._refs")]
    for table in (*references, *global_decomposition_table.values()):
        for function in list(table.values()):
            for marked in _marked(function):
                if not hasattr(marked, MARK):
                    setattr(marked, MARK, _calling(marked))
