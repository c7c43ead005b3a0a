"""The mirror of torch: every name of it, with factories and modules that are remote by default. torch itself stays as it
is.

Names resolve lazily (PEP 562). A submodule of torch has a `Mirror`; module classes and tensor types have a stand-in.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from gt.client.patches import default_generator
from gt.client.patches.patch import apply
from gt.client.patches.table import JOINED
from gt.client.session.random_sequence import sequence
from gt.facade import built_remotely, libraries, overrides
from gt.facade.table import PATCHES


class Mirror(ModuleType):
    """`gt.X.Y` for `torch.X.Y`."""

    def __init__(self, name: str, real: ModuleType) -> None:
        super().__init__(name, real.__doc__)
        self.__dict__["_real"], self.__dict__["_place"] = real, name
        if _has_submodules(real):
            self.__path__: list[str] = []
        if hasattr(real, "__all__"):
            self.__all__ = real.__all__

    def __getattr__(self, name: str) -> Any:
        value = resolve(self.__dict__["_real"], self.__dict__["_place"], name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """The import system sets a submodule that it has imported; `torch.multiprocessing.spawn` stays the function."""
        is_submodule = isinstance(value, Mirror) and value.__dict__["_place"] == f"{self.__dict__['_place']}.{name}"
        if not is_submodule or getattr(self.__dict__["_real"], name, None) is value.__dict__["_real"]:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self.__dict__["_real"]), *self.__dict__})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A few names of torch are both a module and a function."""
        return self.__dict__["_real"](*args, **kwargs)


def resolve(real: ModuleType, mirror: str, name: str) -> Any:
    """The value of `mirror.name`, where `mirror` stands for the torch module `real`. A program that asks is a ported one."""
    if hasattr(real, name) and not name.startswith("__"):
        _join_generators()
    override = overrides.OVERRIDES.get(real.__name__, {})
    if name in override:
        return override[name]
    value = getattr(real, name)
    if (real.__name__, name) in overrides.LATE:
        return overrides.LATE[real.__name__, name](value)
    if isinstance(value, ModuleType) and value.__name__ == f"{real.__name__}.{name}" and value.__name__ in sys.modules:
        return importlib.import_module(f"{mirror}.{name}")
    return built_remotely.of(value) if built_remotely.builds_remotely(value) else value


def _join_generators() -> None:
    if not sequence.joined:
        default_generator.join()
        apply(JOINED)


def _has_submodules(module: ModuleType) -> bool:
    """Whether it is a package, or, such as `torch._C`, a module in C that has others."""
    return hasattr(module, "__path__") or any(name.startswith(f"{module.__name__}.") for name in sys.modules)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `gt.X` as the mirror of `torch.X`. Last on the path: GT's own modules are found before it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of `gt.X` for an existing `torch.X`. Raises ModuleNotFoundError if that needs a package that is
        missing."""
        if not fullname.startswith("gt."):
            return None
        try:
            real = importlib.import_module("torch." + fullname.removeprefix("gt."))
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] != "torch":  # another package, which the module needs
                raise
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, is_package=_has_submodules(real))
        spec.loader_state = real
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The mirror of the torch module that `find_spec` found."""
        return Mirror(spec.name, spec.loader_state)

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: a mirror's names resolve lazily."""
        return None


def install() -> None:
    """Make `import gt.X` work for every `torch.X`, and `"cpu"` mean the remote device in files that do."""
    apply(PATCHES)
    overrides.install()
    sys.meta_path.append(Finder())
    libraries.install()
