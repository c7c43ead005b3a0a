"""What `gt run` gives a program for torch; `decides` is told which of its modules are ported files."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch

from gt.facade.cpu_alias import decides
from gt.facade.mirror import Mirror

__all__ = ["decides", "of"]

OWN = ("__name__", "__package__", "__spec__", "__loader__", "__file__", "__path__")
"""What the import system knows of a module."""


@functools.cache
def _torch() -> Mirror:
    """The mirror of torch, which says of itself what torch does: libraries read its name, version and place."""
    made = Mirror("gt", torch)
    vars(made).update({name: getattr(torch, name) for name in OWN})
    return made


def of(name: str) -> ModuleType:
    """The mirror of the torch module of this name, which has been imported."""
    return _torch() if name == "torch" else importlib.import_module("gt" + name.removeprefix("torch"))
