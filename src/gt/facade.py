"""`import gt as torch`: every name of torch, its factories and modules remote by default, torch itself left as it was.

Names resolve lazily (PEP 562). A submodule of torch has a `Mirror` here; classes of `torch.nn` modules have a stand-in
whose constructor builds on the remote device and returns an instance of the real class.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
from abc import ABCMeta
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from gt import places
from gt.loader import DataLoader, random_split
from gt.places import REMOTE, in_loader_process, names_the_cpu, placing, placing_class, placing_kind

FACTORIES = {
    "torch": [
        "arange",
        "bartlett_window",
        "blackman_window",
        "empty",
        "empty_permuted",
        "empty_strided",
        "eye",
        "full",
        "hamming_window",
        "hann_window",
        "kaiser_window",
        "linspace",
        "logspace",
        "ones",
        "rand",
        "randint",
        "randn",
        "randperm",
        "range",
        "scalar_tensor",
        "tensor",
        "tril_indices",
        "triu_indices",
        "zeros",
        "sparse_coo_tensor",
        "sparse_csr_tensor",
    ],
    "torch.fft": ["fftfreq", "rfftfreq"],
    "torch.signal.windows": list(torch.signal.windows.__all__),
}
"""Functions that make a tensor from nothing: remote unless a device is given or a device context is active."""


LIKE = ["empty_like", "full_like", "ones_like", "rand_like", "randint_like", "randn_like", "zeros_like"]


def device_chosen() -> bool:
    """Whether the user chose another device by `with torch.device(...)` or `set_default_device`."""
    stack = _get_current_function_mode_stack()
    return any(isinstance(mode, DeviceContext) and not names_the_cpu(mode.device) for mode in stack)


def remote_by_default(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("device")
        if (names_the_cpu(given) or (given is None and not device_chosen())) and not in_loader_process():
            kwargs["device"] = REMOTE
        return factory(*args, **kwargs)

    return make


# -- names that need more than a default device --------------------------------------------------------------------------


def _follow(function: Callable[..., Any]) -> Callable[..., Any]:
    """`as_tensor`, `asarray`: a tensor stays where it is, anything else becomes remote."""

    @functools.wraps(function)
    def convert(data: Any, *args: Any, **kwargs: Any) -> Any:
        made = remote_by_default(function) if not isinstance(data, torch.Tensor) else placing(function)
        return made(data, *args, **kwargs)

    return convert


def _moved(function: Callable[..., Any]) -> Callable[..., Any]:
    """`from_numpy`, `frombuffer`: the result goes to the remote device (and so shares no memory with its source)."""

    @functools.wraps(function)
    def convert(*args: Any, **kwargs: Any) -> torch.Tensor:
        made: torch.Tensor = function(*args, **kwargs)
        return made if device_chosen() or in_loader_process() else made.to(REMOTE)

    return convert


def _normal(mean: Any, std: Any = 1.0, *args: Any, **kwargs: Any) -> torch.Tensor:
    if isinstance(mean, torch.Tensor) or isinstance(std, torch.Tensor):
        return torch.normal(mean, std, *args, **kwargs)
    return remote_by_default(torch.normal)(mean, std, *args, **kwargs)  # type: ignore[no-any-return]


def _load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
    return torch.load(f, REMOTE if map_location is None else places.placed(map_location), *args, **kwargs)


def _compile(model: Any = None, **options: Any) -> Any:
    """Workers decide what to compile: the model runs as it is."""
    return (lambda m: m) if model is None else model


def _get_default_device() -> torch.device:
    return torch.get_default_device() if device_chosen() else REMOTE


def _get_rng_state() -> torch.Tensor:
    return torch.remote.get_rng_state()  # type: ignore[attr-defined,no-any-return]


def _set_rng_state(new_state: torch.Tensor) -> None:
    torch.remote.set_rng_state(new_state)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _fork_rng(devices: Any = None, enabled: bool = True, *_: Any, **__: Any) -> Iterator[None]:
    with torch.random.fork_rng([0] if devices is None else devices, enabled, device_type="remote"):
        yield


AUTOCAST_STATE = ("is_autocast_enabled", "set_autocast_enabled", "get_autocast_dtype", "set_autocast_dtype")
AMP = {name: placing_kind(getattr(torch.amp, name)) for name in ("custom_fwd", "custom_bwd", "is_autocast_available")}
_autocast = placing_class(torch.autocast, "device_type", lambda: {"dtype": torch.get_autocast_dtype("cpu")})
_grad_scaler = placing_class(torch.amp.GradScaler, "device")

OVERRIDES: dict[str, dict[str, Any]] = {
    "torch": {
        "as_tensor": _follow(torch.as_tensor),
        "asarray": _follow(torch.asarray),
        "from_numpy": _moved(torch.from_numpy),
        "frombuffer": _moved(torch.frombuffer),
        "normal": _normal,
        "load": _load,
        "compile": _compile,
        "get_default_device": _get_default_device,
        "get_rng_state": _get_rng_state,
        "set_rng_state": _set_rng_state,
        "autocast": _autocast,
        **{name: placing(getattr(torch, name)) for name in LIKE},
        **{name: placing_kind(getattr(torch, name)) for name in AUTOCAST_STATE},
    },
    "torch.amp": {"autocast": _autocast, "GradScaler": _grad_scaler, **AMP},
    "torch.amp.autocast_mode": {"autocast": _autocast, **AMP},
    "torch.amp.grad_scaler": {"GradScaler": _grad_scaler},
    "torch.cpu.amp": {"autocast": functools.partial(_autocast, "cpu"), "GradScaler": functools.partial(_grad_scaler, "cpu")},
    "torch.random": {"get_rng_state": _get_rng_state, "set_rng_state": _set_rng_state, "fork_rng": _fork_rng},
    "torch.serialization": {"load": _load},
    "torch.utils.data": {"DataLoader": DataLoader, "random_split": random_split},
}
for _module, _names in FACTORIES.items():
    for _name in _names:
        OVERRIDES.setdefault(_module, {})[_name] = remote_by_default(getattr(importlib.import_module(_module), _name))


# -- modules that build their parameters remotely ------------------------------------------------------------------------

_stand_ins: dict[type, type] = {}


class RemoteByDefault(ABCMeta):
    """Metaclass of the stand-ins for module classes, and so of every class that a user derives from one.

    Calling a class builds under the remote device. A stand-in returns the real class's instance, and is that class to
    `isinstance`, `issubclass`, `==` and `hash`. (ABCMeta, so that `class Net(nn.Module, ABC)` has one metaclass.)
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        real = cls.__dict__.get("_gt_real")
        with contextlib.nullcontext() if device_chosen() else REMOTE:
            return placing(real)(*args, **kwargs) if real else super().__call__(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        real = cls.__dict__.get("_gt_real")
        return isinstance(instance, real) if real else super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        real = cls.__dict__.get("_gt_real")
        return issubclass(subclass, real) if real else super().__subclasscheck__(subclass)

    def __eq__(cls, other: object) -> bool:
        return cls is other or cls.__dict__.get("_gt_real", cls) is other

    def __hash__(cls) -> int:
        return type.__hash__(cls.__dict__.get("_gt_real", cls))


def stand_in(real: type) -> type:
    """The stand-in of a module class; one per class."""
    if real not in _stand_ins:
        body = {
            "__module__": real.__module__,
            "__doc__": real.__doc__,
            "__qualname__": real.__qualname__,
            "_gt_real": real,
        }
        _stand_ins[real] = RemoteByDefault(real.__name__, (real,), body)
    return _stand_ins[real]


# -- mirrors of torch's modules ------------------------------------------------------------------------------------------


class Mirror(ModuleType):
    """`gt.X.Y` for `torch.X.Y`."""

    def __init__(self, name: str, real: ModuleType) -> None:
        super().__init__(name, real.__doc__)
        self.__dict__["_real"] = real
        if hasattr(real, "__path__"):
            self.__path__: list[str] = []
        if hasattr(real, "__all__"):
            self.__all__ = real.__all__

    def __getattr__(self, name: str) -> Any:
        value = resolve(self.__dict__["_real"], self.__name__, name)
        self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted({*dir(self.__dict__["_real"]), *self.__dict__})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["_real"](*args, **kwargs)


def resolve(real: ModuleType, mirror: str, name: str) -> Any:
    """What `mirror.name` is, `mirror` standing for the torch module `real`."""
    override = OVERRIDES.get(real.__name__, {})
    if name in override:
        return override[name]
    value = getattr(real, name)
    if isinstance(value, ModuleType) and value.__name__ == f"{real.__name__}.{name}":
        return importlib.import_module(f"{mirror}.{name}")
    if isinstance(value, type) and issubclass(value, torch.nn.Module) and value.__module__.startswith("torch.nn"):
        return stand_in(value)
    return value


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `gt.X` as the mirror of `torch.X`. Last on the path: GT's own modules are found before it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("gt."):
            return None
        try:
            real = importlib.import_module("torch." + fullname.removeprefix("gt."))
        except ModuleNotFoundError:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, is_package=hasattr(real, "__path__"))
        spec.loader_state = real
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Mirror(spec.name, spec.loader_state)

    def exec_module(self, module: ModuleType) -> None:
        return None


def install() -> None:
    """Make `import gt.X` work for every `torch.X`, and `"cpu"` mean the remote device where that was done."""
    places.install()
    sys.meta_path.append(Finder())
