"""What `gt run` gives a program for torch; `decides` is told which of its modules are ported files."""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

import torch

from gt.facade.cpu_alias import decides
from gt.facade.mirror import OWN, Mirror

__all__ = ["decides", "of"]


class Torch(Mirror):
    """The mirror of torch itself, which is not in `sys.modules`. It has torch's name, version and place, which libraries
    read."""

    def __reduce__(self) -> Any:
        return of, ("torch",)


@functools.cache
def _torch() -> Torch:
    made = Torch("gt", torch)
    made.says_as_torch(*OWN)
    return made


def of(name: str) -> Any:
    """The mirror of the torch module of this name, which has been imported. What else a program has in `sys.modules` under
    such a name, a mock for instance, is what it gets."""
    if not isinstance(sys.modules[name], ModuleType):
        return sys.modules[name]
    return _torch() if name == "torch" else importlib.import_module("gt" + name.removeprefix("torch"))
