"""Stand-ins for torch's classes under `import gt as torch`, which build on the remote device: modules, distributions,
tensor types.

A stand-in is the real class to `isinstance`, `issubclass`, `==`, `hash`, pickle and code that sets its attributes; calling
it returns an instance of the real class. Only `is` tells the two apart. `__subclasses__` of torch's classes, by which
libraries find what to patch, does not list stand-ins, but the classes that users derive from them.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import functools
import importlib
import inspect
import itertools
import sys
from abc import ABCMeta
from collections.abc import Callable
from types import FrameType, FunctionType, MappingProxyType, MethodType
from typing import Any, Protocol

import numpy
import torch

from gt.facade.cpu_alias import REMOTE, default_device, device_chosen, placed, placing, placing_kind, sent

_dict_of = type.__dict__["__dict__"].__get__
_mro_of = type.__dict__["__mro__"].__get__
_standing: dict[type, Any] = {}
"""The stand-in of a class; one per class."""


def real_of(cls: Any) -> Any:
    """The class that a stand-in stands for, None for any other."""
    return _dict_of(cls).get("_gt_real")


def _is_own(cls: type, name: str) -> bool:
    """Whether a stand-in defines this name itself."""
    return name in _dict_of(cls)["_gt_own"]


def _seen(classes: tuple[type, ...]) -> tuple[type, ...]:
    """The classes without those of torch that are represented by a stand-in among them."""
    places = {real_of(c) for c in classes}
    return tuple(c for c in classes if real_of(c) or c not in places)


def _attributes(cls: type) -> MappingProxyType[str, Any]:
    """`__dict__` of the real class, with the stand-in's own definitions."""
    own = _dict_of(cls)
    return MappingProxyType({**vars(real_of(cls)), **{name: own[name] for name in own["_gt_own"] if name in own}})


def _of_real(name: str) -> Callable[[type], Any]:
    return lambda cls: getattr(real_of(cls), name)


OF_TYPES = (
    "__annotations__",
    "__base__",
    "__bases__",
    "__doc__",
    "__module__",
    "__name__",
    "__orig_bases__",
    "__parameters__",
    "__qualname__",
    "__subclasses__",
)
SEEN = {"__dict__": _attributes, **{name: _of_real(name) for name in OF_TYPES}}
"""Attributes that `type` would answer for the stand-in itself."""


class Subclasses:
    """`__subclasses__` of a class that has a stand-in: `type`'s own result without the stand-in.

    Unlike `type`'s, it can also be read from an instance: `dir` lists it, and programs read everything that `dir` lists.
    """

    def __get__(self, instance: Any, owner: type) -> Callable[[], list[type]]:
        subclasses: list[type] = type.__subclasses__(owner)
        return lambda: [c for c in subclasses if not real_of(c)]


def _of_module(body: dict[str, Any], frame: FrameType) -> dict[str, Any]:
    """The body of a class made by a call, with the caller's module, for which Python would take `ABCMeta`'s."""
    return {"__module__": frame.f_globals["__name__"], **body}


def _is_abstract_base(cls: type) -> bool:
    """Whether a class would make those derived from it abstract without stand-ins: `ABC`, protocols."""
    return isinstance(cls, ABCMeta) and not isinstance(cls, Open)


class Open(type(Protocol)):  # type: ignore[misc]
    """The metaclass of classes that may also derive from `ABC` and protocols, as if their metaclass were `type`."""

    __instancecheck__ = ABCMeta.__instancecheck__  # a protocol's own check asks every class

    def __new__(mcls, name: str, bases: tuple[type, ...], body: dict[str, Any], **options: Any) -> Any:
        """Make a class in the caller's module."""
        made = super().__new__(mcls, name, bases, _of_module(body, sys._getframe(1)), **options)
        if made.__abstractmethods__ and not any(map(_is_abstract_base, _mro_of(made))):
            del made.__abstractmethods__  # `@abstractmethod` has no effect in a class of `type`
        return made


class StandIn(Open):
    """The metaclass of stand-ins: `class Name(real, metaclass=StandIn, stands_for=real)`.

    It is also the metaclass of the classes that a user derives from one. They inherit from the real class and, before it,
    from the stand-in's own definitions.
    """

    user_metaclass: type | None = None
    """The metaclass of classes that are derived from a stand-in, if it is another one."""
    is_subclass = True
    """Whether the real class can be inherited from."""

    def __new__(
        mcls, name: str, bases: tuple[type, ...], body: dict[str, Any], *, stands_for: Any = None, **options: Any
    ) -> Any:
        """Make a stand-in (`stands_for` given), or a class that a user derives from one."""
        if stands_for is None:
            return _derive(mcls, name, bases, _of_module(body, sys._getframe(1)), options)
        own = frozenset(body) - {"__module__", "__qualname__", "__doc__", "__classcell__", "__orig_bases__"}
        made = super().__new__(mcls, name, (stands_for,) if mcls.is_subclass else (), {**body, "_gt_own": own})
        type.__setattr__(made, "_gt_real", stands_for)
        if mcls.is_subclass and not any("__subclasses__" in vars(c) for c in stands_for.__mro__):
            stands_for.__subclasses__ = Subclasses()
        return _standing.setdefault(stands_for, made)

    def __getattribute__(cls, name: str) -> Any:
        if name == "__mro__":
            return _seen(_mro_of(cls))
        if name in SEEN and real_of(cls):
            return SEEN[name](cls)
        found = super().__getattribute__(name)
        return tuple(c for c in found if not real_of(c)) if name == "__bases__" else found

    def __instancecheck__(cls, instance: Any) -> bool:
        real = real_of(cls)
        return isinstance(instance, real) if real else super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        real = real_of(cls)
        return issubclass(subclass, real) if real else super().__subclasscheck__(subclass)

    def __eq__(cls, other: object) -> bool:
        return cls is other or (real_of(cls) or cls) is other

    def __hash__(cls) -> int:
        return type.__hash__(real_of(cls) or cls)

    def __setattr__(cls, name: str, value: Any) -> None:
        real = real_of(cls)
        setattr(real, name, value) if real and not _is_own(cls, name) else super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        real = real_of(cls)
        delattr(real, name) if real and not _is_own(cls, name) else super().__delattr__(name)

    def __repr__(cls) -> str:
        return repr(real_of(cls)) if real_of(cls) else super().__repr__()


def _derive(metaclass: Any, name: str, bases: tuple[type, ...], body: dict[str, Any], options: dict[str, Any]) -> Any:
    """The class that a user derives from stand-ins: it derives from torch's classes, each after its stand-in's own
    definitions."""
    kinds = {type(base) for base in bases if real_of(base)}
    real = tuple(real_of(base) or base for base in bases)
    if kinds == {metaclass} and metaclass.user_metaclass:
        return metaclass.user_metaclass(name, real, body, **options)
    bases = tuple(itertools.chain.from_iterable(map(_doing, real)))
    return super(StandIn, metaclass).__new__(metaclass, name, bases, body, **options)


def _doing(real: type) -> tuple[type, ...]:
    """A base, preceded by its stand-in's own definitions if there are any."""
    stand_in = _standing.get(real)
    return (stand_in, real) if stand_in is not None and _dict_of(stand_in)["_gt_own"] else (real,)


def _reduce(cls: StandIn) -> Any:
    """A stand-in is pickled as the class that it stands for (which `copy` returns unchanged), any other class by its
    name."""
    return (copy.copy, (real_of(cls),)) if real_of(cls) else cls.__qualname__


class FunctionStandIn(functools.partial[Any]):
    """A function that stands for torch's own: equal to it, with its name, signature and text, and pickled as itself.

    It is a partial, which adds the least to a call. `place`: the module of `gt` and the name there.
    """

    place: tuple[str, str]

    def __new__(cls, function: Callable[..., Any], real: Callable[..., Any], module: str, name: str) -> Any:
        """A stand-in for `real` that calls `function`."""
        made = super().__new__(cls, function)
        functools.update_wrapper(made, real)
        made.place = (module, name)
        return made

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a class attribute it binds as a method if torch's own does: if that is written in Python."""
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


def placing_class(real: Any, parameter: str, defaults: Callable[[], dict[str, Any]] = dict) -> type:
    """A class of `gt` whose constructor takes a device type; `defaults`: the CPU's defaults where the devices' differ."""
    construct = placing_kind(real.__init__, parameter, 1)

    @functools.wraps(real.__init__)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if "cpu" in (kwargs.get(parameter), *args[:1]) and len(args) < 2:
            kwargs = {**defaults(), **{name: value for name, value in kwargs.items() if value is not None}}
        construct(self, *args, **kwargs)

    return StandIn(real.__name__, (real,), {"__init__": init}, stands_for=real)  # type: ignore[no-any-return]


# -- classes whose constructors make tensors: modules, distributions --------------------------------------------------------


class RemoteByDefault(Open):
    """The metaclass of classes that a user derives from a module of `gt`: calling one builds under the remote device."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Construct under the remote device, unless the user chose another."""
        real = real_of(cls)
        with contextlib.nullcontext() if device_chosen() else REMOTE:
            return placing(real)(*args, **kwargs) if real else super().__call__(*args, **kwargs)

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's signature, for `inspect.signature`."""
        whole = inspect.signature(cls.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])


class RemoteStandIn(StandIn, RemoteByDefault):
    """The metaclass of the stand-ins themselves."""

    user_metaclass = RemoteByDefault


BUILT_REMOTELY = {
    "torch.nn": torch.nn.Module,
    "torch.ao": torch.nn.Module,
    "torch.distributions": torch.distributions.Distribution,
}
"""Packages of torch, each with the base of those of its classes that have a stand-in."""


def builds_remotely(value: Any) -> bool:
    """Whether a name of torch is a class that has a stand-in."""
    return isinstance(value, type) and any(
        value.__module__.startswith(package) and issubclass(value, base) for package, base in BUILT_REMOTELY.items()
    )


def of(real: type) -> Any:
    """The stand-in of a class that is built remotely; one per class."""
    return _standing.get(real) or RemoteStandIn(real.__name__, (real,), {}, stands_for=real)


# -- `torch.Tensor(...)`, `torch.FloatTensor(...)` and the like ------------------------------------------------------------


class TensorStandIn(StandIn, type(torch.Tensor)):  # type: ignore[misc]
    """The metaclass of `gt.Tensor` and of the tensor classes that a user derives from it."""


def _new(dtype: torch.dtype, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    of_array = len(args) == 1 and isinstance(args[0], numpy.ndarray)
    made = torch.empty(0, dtype=dtype, device="cpu" if of_array else default_device()).new(*args, **kwargs)
    return sent(made) if of_array else made


def _new_tensor(cls: type, *args: Any, **kwargs: Any) -> Any:
    real = real_of(cls) or cls
    if args and isinstance(args[0], torch.Tensor):  # an alias of the same elements, wherever they are
        return torch.Tensor.__new__(real, *args, **kwargs)
    made = _new(torch.get_default_dtype(), args, kwargs)
    return made if real is torch.Tensor else made.as_subclass(real)


class Apart(StandIn):
    """The metaclass of stand-ins for classes defined in C, which construct and recognise their instances in their own
    way."""

    is_subclass = False

    def __getattr__(cls, name: str) -> Any:
        return getattr(real_of(cls), name)


class TensorType(Apart):
    """The metaclass of `gt.FloatTensor` and the like, which make tensors, and by which tensors are converted and
    recognised."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make a tensor of this type on the default device."""
        return _new(cls.dtype, args, kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        strided = isinstance(instance, torch.Tensor) and instance.layout is torch.strided
        return strided and instance.dtype is cls.dtype and instance.device.type in ("remote", "cpu")


class GeneratorStandIn(Apart):
    """The metaclass of `gt.Generator`, whose default device is the one that takes the CPU's place."""

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        """Make a generator, for the remote device unless the program names another."""
        return torch.Generator(placed("cpu" if device is None else device))

    def __eq__(cls, other: object) -> bool:
        return cls is other or torch.Generator == other

    def __hash__(cls) -> int:
        return hash(torch.Generator)


Generator = GeneratorStandIn("Generator", (), {}, stands_for=torch._C.Generator)
Tensor = TensorStandIn("Tensor", (torch.Tensor,), {"__new__": _new_tensor}, stands_for=torch.Tensor)
TENSOR_TYPES = {
    # `x.type(...)` looks types up by name, and these are PyTorch's names for the device's
    name: TensorType(f"torch.remote.{name}", (), {}, stands_for=real)
    for name, real in vars(torch).items()
    if isinstance(real, type(torch.FloatTensor))
}
for _metaclass in (StandIn, RemoteStandIn, GeneratorStandIn, TensorStandIn, TensorType):
    copyreg.pickle(_metaclass, _reduce)  # type: ignore[arg-type]
