"""Classes that stand for torch's own under `import gt as torch`, and build on the remote device: modules, distributions,
tensor types.

A stand-in is the real class to `isinstance`, `issubclass`, `==`, `hash`, pickle and whoever sets its attributes; calling it
returns an instance of the real class. Only `is` can tell the two apart.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import functools
import importlib
import inspect
from abc import ABCMeta
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import numpy
import torch

from gt.places import REMOTE, default_device, device_chosen, placing, placing_kind, sent


class StandIn(type):
    """Metaclass of stand-ins, which name their class in `_gt_real`, and so of every class that a user derives from one."""

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

    def __setattr__(cls, name: str, value: Any) -> None:
        real = cls.__dict__.get("_gt_real")
        setattr(real, name, value) if real else super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        real = cls.__dict__.get("_gt_real")
        delattr(real, name) if real else super().__delattr__(name)

    def __repr__(cls) -> str:
        return repr(cls.__dict__["_gt_real"]) if "_gt_real" in cls.__dict__ else super().__repr__()


def _reduce(cls: StandIn) -> Any:
    """A stand-in is pickled as the class it stands for (which `copy` returns as it is), any other class by its name."""
    real = cls.__dict__.get("_gt_real")
    return (copy.copy, (real,)) if real else cls.__qualname__


def _stand_for(real: type, metaclass: type[StandIn], name: str, bases: tuple[type, ...], **body: Any) -> Any:
    body |= {"__module__": real.__module__, "__doc__": real.__doc__, "__qualname__": real.__qualname__}
    made = metaclass(name, bases, body)
    type.__setattr__(made, "_gt_real", real)
    return made


class FunctionStandIn(functools.partial[Any]):
    """A function that stands for torch's own: equal to it, of its name, signature and text, and found by it when pickled.

    A partial, which costs a call the least. `place`: the module of `gt` and the name there.
    """

    place: tuple[str, str]

    def __new__(cls, function: Callable[..., Any], real: Callable[..., Any], module: str, name: str) -> Any:
        made = super().__new__(cls, function)
        functools.update_wrapper(made, real)
        made.place = (module, name)
        return made

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As an attribute of a class it is a method where torch's own is: one written in Python."""
        is_method = instance is not None and isinstance(self.__wrapped__, FunctionType)
        return MethodType(self, instance) if is_method else self

    def __eq__(self, other: object) -> bool:
        return self is other or self.__wrapped__ is other

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def __reduce__(self) -> Any:
        return _found, self.place

    def __copy__(self) -> FunctionStandIn:
        return self

    def __deepcopy__(self, memo: Any) -> FunctionStandIn:
        return self


def _found(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def extends(real: type) -> Callable[[type[Any]], Any]:
    """Make a class that is derived from one of torch's, and has `StandIn` for its metaclass, stand for that one."""

    def name(cls: type[Any]) -> Any:
        body = {"__module__": real.__module__, "__doc__": real.__doc__, "__name__": real.__name__}
        for attribute, value in {**body, "__qualname__": real.__qualname__, "_gt_real": real}.items():
            type.__setattr__(cls, attribute, value)
        return cls

    return name


def placing_class(real: Any, parameter: str, defaults: Callable[[], dict[str, Any]] = dict) -> type:
    """A class of `gt` that is constructed for the kind of a device; `defaults` are the CPU's, where the devices differ."""
    construct = placing_kind(real.__init__, parameter, 1)

    @functools.wraps(real.__init__)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if "cpu" in (kwargs.get(parameter), *args[:1]) and len(args) < 2:
            kwargs = {**defaults(), **{name: value for name, value in kwargs.items() if value is not None}}
        construct(self, *args, **kwargs)

    return _stand_for(real, StandIn, real.__name__, (real,), __init__=init)  # type: ignore[no-any-return]


# -- classes whose constructors make tensors: modules, distributions --------------------------------------------------------


class RemoteByDefault(StandIn, ABCMeta):
    """Calling such a class builds under the remote device. ABCMeta: so `class Net(nn.Module, ABC)` has one metaclass."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        real = cls.__dict__.get("_gt_real")
        with contextlib.nullcontext() if device_chosen() else REMOTE:
            return placing(real)(*args, **kwargs) if real else super().__call__(*args, **kwargs)

    def __subclasscheck__(cls, subclass: type) -> bool:
        real = cls.__dict__.get("_gt_real")  # if this is an ABC, its own check asks its subclasses, the stand-in among them
        return type.__subclasscheck__(real, subclass) if real else super().__subclasscheck__(subclass)

    @property
    def __signature__(cls) -> inspect.Signature:
        """Of the constructor, for `inspect.signature`."""
        whole = inspect.signature(cls.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])


BUILT_REMOTELY = {
    "torch.nn": torch.nn.Module,
    "torch.ao": torch.nn.Module,
    "torch.distributions": torch.distributions.Distribution,
}
"""Packages, and the base of the classes in them that have a stand-in."""
_built: dict[type, type] = {}


def builds_remotely(value: Any) -> bool:
    """Whether a name of torch is a class that has a stand-in."""
    return isinstance(value, type) and any(
        value.__module__.startswith(package) and issubclass(value, base) for package, base in BUILT_REMOTELY.items()
    )


def of(real: type) -> type:
    """The stand-in of a class; one per class."""
    if real not in _built:
        _built[real] = _stand_for(real, RemoteByDefault, real.__name__, (real,))
    return _built[real]


# -- `torch.Tensor(...)`, `torch.FloatTensor(...)` and the like ------------------------------------------------------------


class TensorStandIn(StandIn, type(torch.Tensor)):  # type: ignore[misc]
    """Metaclass of `gt.Tensor` and of the tensor classes that a user derives from it."""


def _new(dtype: torch.dtype, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    of_array = len(args) == 1 and isinstance(args[0], numpy.ndarray)
    made = torch.empty(0, dtype=dtype, device="cpu" if of_array else default_device()).new(*args, **kwargs)
    return sent(made) if of_array else made


def _new_tensor(cls: type, *args: Any, **kwargs: Any) -> Any:
    real = cls.__dict__.get("_gt_real", cls)
    if args and isinstance(args[0], torch.Tensor):  # another name for the same elements, wherever they are
        return torch.Tensor.__new__(real, *args, **kwargs)
    made = _new(torch.get_default_dtype(), args, kwargs)
    return made if real is torch.Tensor else made.as_subclass(real)


class TensorType(StandIn):
    """Metaclass of `gt.FloatTensor` and the like, which tensors are converted to and told apart by, and which make them."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _new(cls.dtype, args, kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        strided = isinstance(instance, torch.Tensor) and instance.layout is torch.strided
        return strided and instance.dtype is cls.dtype and instance.device.type in ("remote", "cpu")

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.__dict__["_gt_real"], name)


class GeneratorStandIn(StandIn):
    """Metaclass of `gt.Generator`: a generator for the remote device is one of the client's, which travels with a call."""

    def __call__(cls, device: Any = None) -> torch.Generator:
        return torch.Generator("cpu" if device is None or torch.device(device).type == "remote" else device)


Generator = _stand_for(torch.Generator, GeneratorStandIn, "Generator", ())
Tensor = _stand_for(torch.Tensor, TensorStandIn, "Tensor", (torch.Tensor,), __new__=_new_tensor)
TENSOR_TYPES = {
    # `x.type(...)` goes by the name, and PyTorch knows the device's types by these
    name: _stand_for(real, TensorType, f"torch.remote.{name}", ())
    for name, real in vars(torch).items()
    if isinstance(real, type(torch.FloatTensor))
}
for _metaclass in (StandIn, RemoteByDefault, GeneratorStandIn, TensorStandIn, TensorType):
    copyreg.pickle(_metaclass, _reduce)  # type: ignore[arg-type]
