"""What other libraries ask about devices and classes, answered when they are imported: the table `ADAPTED`.

A library that trains chooses a device from those that it knows: CUDA, Apple's, a few more, else the CPU. Where it would
choose the CPU it is given the remote device, as it would take a GPU.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Sequence
from types import FrameType, ModuleType
from typing import Any

import torch

from gt.facade import cpu_alias, lightning, stand_ins


def _accelerate(state: ModuleType) -> None:
    """`accelerate`, and with it `transformers.Trainer` and TRL, train on the workers unless they are told `cpu=True`."""
    choose = state.PartialState.default_device.fget

    @functools.wraps(choose)
    def default_device(self: Any) -> torch.device:
        return cpu_alias.chosen_for_training(choose(self))

    state.PartialState.default_device = property(default_device)


def _transformers(modeling: ModuleType) -> None:
    """`from_pretrained` sees a device that was chosen, and demands `accelerate` to load onto it; here it is the default."""
    ask = modeling.get_torch_context_manager_or_global_device

    @functools.wraps(ask)
    def get_torch_context_manager_or_global_device() -> torch.device | None:
        return ask() if cpu_alias.device_chosen() else None

    modeling.get_torch_context_manager_or_global_device = get_torch_context_manager_or_global_device


def _dill(pickling: ModuleType) -> None:
    """`dill` pickles classes in its own way, whatever their metaclass says: a stand-in as what it stands for."""
    save = pickling.save_type

    @functools.wraps(save)
    def save_type(pickler: Any, obj: type, *args: Any, **kwargs: Any) -> None:
        if stand_ins.real_of(obj):
            pickler.save_reduce(*stand_ins.reduced(obj), obj=obj)
        else:
            save(pickler, obj, *args, **kwargs)

    pickling.save_type = save_type


ADAPTED: dict[str, Callable[[ModuleType], None]] = {
    "accelerate.state": _accelerate,
    "dill._dill": _dill,
    "transformers.modeling_utils": _transformers,
    **lightning.ADAPTED,
}
"""What is done to a module after it was imported. A version that lacks what is changed stays as it is."""


def _adapt(module: ModuleType) -> None:
    try:
        ADAPTED[module.__name__](module)
    except AttributeError as error:
        warnings.warn(f"gt: this version of {module.__name__} is not known ({error}); it may not work with GT", stacklevel=2)


class Watch(importlib.abc.MetaPathFinder):
    """Finds the modules of the table as the other finders do, and has them adapted after they were executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The others' spec, whose loader also adapts."""
        if fullname not in ADAPTED:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in finders)), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _then_adapt(spec.loader.exec_module)  # type: ignore[assignment, method-assign]
        return spec


def _then_adapt(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        execute(module)
        _adapt(module)

    return exec_module


def install() -> None:
    """Adapt what was imported already, and what will be."""
    for name in ADAPTED:
        if name in sys.modules:
            _adapt(sys.modules[name])
    sys.meta_path.insert(0, Watch())


# -- a model that a library moves back -----------------------------------------------------------------------------------

_told: set[str] = set()
"""Libraries that the user was told about."""


def telling(original: Callable[..., Any]) -> Callable[..., Any]:
    """The patch of `Module.to` and `Module.cpu`: a library that moves a remote model to this process is one warning."""
    always = original.__name__ == "cpu"

    @functools.wraps(original)
    def move(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device") or (args[0] if args else None)
        if (always or cpu_alias.names_the_cpu(device)) and any(p.device.type == "remote" for p in self.parameters()):
            _tell()
        return original(self, *args, **kwargs)

    return move


def _tell() -> None:
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _package(frame) in ("gt", "torch"):
        frame, level = frame.f_back, level + 1
    if _package(frame) in _told or not _is_library(frame.f_code.co_filename):
        return
    _told.add(_package(frame))
    warnings.warn(
        f"{_package(frame)} has moved a model from the workers to this process, where it computes from now on."
        " GT's README, `Other libraries`, says how it uses the workers",
        stacklevel=level,
    )


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _is_library(path: str) -> bool:
    return "site-packages" in path or "dist-packages" in path
