"""The mirror of torch: every name of it, with factories and modules that are remote by default. torch itself stays as it
is, but for the names that the program sets.

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

import torch

from gt.client.patches import default_generator
from gt.client.patches.patch import apply
from gt.client.patches.table import JOINED
from gt.client.session.random_sequence import sequence
from gt.facade import built_remotely, cpu_alias, libraries, overrides, stand_ins
from gt.facade.table import PATCHES

OWN = ("__name__", "__package__", "__spec__", "__loader__", "__file__", "__path__")
"""What the import system knows of a module."""
LIVE = frozenset({"torch.nn.init"})
"""Modules of torch whose functions libraries replace while they make a model: a mirror reads them anew each time."""
KEPT = (ModuleType, torch.dtype, torch.layout, torch.memory_format)
"""What a name of torch stands for once and for all, beside functions and classes; a flag, a number or None may change."""

_dict_of = vars(ModuleType)["__dict__"].__get__


class Mirror(ModuleType):
    """`gt.X.Y` for `torch.X.Y`: what is read from it, and set in it, is torch's, but where GT has its own."""

    def __init__(self, name: str, real: ModuleType) -> None:
        super().__init__(name, real.__doc__)
        _dict_of(self).update(_real=real, _place=name)
        self.says_as_torch("__file__", "__all__")
        if _has_submodules(real):
            self.__path__: list[str] = []

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """All names and their values at this moment, for `vars` and `import *`."""
        own = _dict_of(self)
        names = vars(own["_real"])
        for name in names.keys() - own.keys():
            if not name.startswith("__"):
                getattr(self, name)
        return {**names, **own}

    def __getattr__(self, name: str) -> Any:
        own = _dict_of(self)
        real = own["_real"]
        value = resolve(real, own["_place"], name)
        if real.__name__ not in LIVE and (callable(value) or isinstance(value, KEPT)):
            own[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """The import system sets a submodule that it has imported; `torch.multiprocessing.spawn` stays the function."""
        own = _dict_of(self)
        real = own["_real"]
        if isinstance(value, Mirror) and _dict_of(value)["_place"] == f"{own['_place']}.{name}":
            if getattr(real, name, None) is _dict_of(value)["_real"]:
                super().__setattr__(name, value)
        elif _is_gts(real, name):
            super().__setattr__(name, value)
        else:
            setattr(real, name, (isinstance(value, type) and stand_ins.real_of(value)) or value)
            own.pop(name, None)

    def __delattr__(self, name: str) -> None:
        own = _dict_of(self)
        if _is_gts(own["_real"], name):
            super().__delattr__(name)
        else:
            delattr(own["_real"], name)
            own.pop(name, None)

    def __dir__(self) -> list[str]:
        own = _dict_of(self)
        return sorted({*dir(own["_real"]), *own})

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """A few names of torch are both a module and a function."""
        return _dict_of(self)["_real"](*args, **kwargs)

    def __reduce__(self) -> Any:
        return _imported, (_dict_of(self)["_place"],)

    def says_as_torch(self, *names: str) -> None:
        """Say under these names what torch's module says, where it has them."""
        own = _dict_of(self)
        own.update({name: getattr(own["_real"], name) for name in names if hasattr(own["_real"], name)})


def _imported(place: str) -> ModuleType:
    return importlib.import_module(place)


def _is_gts(real: ModuleType, name: str) -> bool:
    """Whether this name of a mirror is GT's own, or the import system's."""
    of_gt = name in overrides.OVERRIDES.get(real.__name__, ()) or (real.__name__, name) in overrides.LATE
    return of_gt or (name.startswith("__") and name.endswith("__"))


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
        """A mirror's names resolve lazily."""
        if cpu_alias.means_the_workers_everywhere() and isinstance(module, Mirror):
            module.says_as_torch(*(name for name in OWN if name != "__path__"))


def install() -> None:
    """Make `import gt.X` work for every `torch.X`, and `"cpu"` mean the remote device in files that do."""
    apply(PATCHES)
    overrides.install()
    sys.meta_path.append(Finder())
    libraries.install()
