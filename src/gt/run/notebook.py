"""`%load_ext gt`: the notebook's cells, the libraries that they import, and the processes that they start have GT's torch
from now on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from gt.errors import RefusedError
from gt.run import command
from gt.run import importlib_bootstrap as hook


def load() -> None:
    """Begin. Raises RefusedError if cells or libraries have torch already, which would stay as it is."""
    late = sorted(set(_have_torch()))
    if late:
        raise RefusedError(
            f"%load_ext gt: torch was imported before, by {', '.join(late)}; restart the kernel and load gt first"
        )
    hook.install()
    os.environ.update(command.prepared(os.environ, None))


def _have_torch() -> Iterator[str]:
    """The modules (packages of libraries) that have torch itself, or a module of it, under some name."""
    for name, module in list(sys.modules.items()):
        package = name.partition(".")[0]
        if package not in hook.PLAIN and any(map(_is_of_torch, list(getattr(module, "__dict__", {}).values()))):
            yield "a cell" if name in ("__main__", "__mp_main__") else package


def _is_of_torch(value: Any) -> bool:
    return isinstance(value, ModuleType) and value is sys.modules.get(value.__name__) and hook.is_torch(value.__name__)
