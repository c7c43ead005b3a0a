"""Classes that stand for torch's own under `import gt as torch`, and build on the remote device: modules, distributions,
tensor types.

A stand-in is the real class to `isinstance`, `issubclass`, `==`, `hash`, pickle and whoever sets its attributes; calling it
returns an instance of the real class. Only `is` can tell the two apart. `__subclasses__` of torch's classes, where libraries
find what to patch, does not name it, but what a user derives from it.
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

from gt.facade.cpu_alias import REMOTE, default_device, device_chosen, placing, placing_kind, sent

_dict_of = type.__dict__["__dict__"].__get__
_mro_of = type.__dict__["__mro__"].__get__
_standing: dict[type, Any] = {}
"""The stand-in of a class; one per class."""


def real_of(cls: Any) -> Any:
    """The class that a stand-in stands for, None for any other."""
    return _dict_of(cls).get("_gt_real")


def _is_own(cls: type, name: str) -> bool:
    """Whether a stand-in does this itself."""
    return name in _dict_of(cls)["_gt_own"]


def _seen(classes: tuple[type, ...]) -> tuple[type, ...]:
    """Without the classes of torch that a stand-in among them takes the place of."""
    places = {real_of(c) for c in classes}
    return tuple(c for c in classes if real_of(c) or c not in places)


def _attributes(cls: type) -> MappingProxyType[str, Any]:
    """`__dict__` of the real class, with what the stand-in does itself."""
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
"""What `type` would tell of a stand-in itself."""


class Subclasses:
    """`__subclasses__` of a class that has a stand-in: `type`'s own, without that.

    An instance answers too, which others do not: `dir` names it, and programs ask for all that `dir` names.
    """

    def __get__(self, instance: Any, owner: type) -> Callable[[], list[type]]:
        subclasses: list[type] = type.__subclasses__(owner)
        return lambda: [c for c in subclasses if not real_of(c)]


def _of_module(body: dict[str, Any], frame: FrameType) -> dict[str, Any]:
    """A class that is made by a call is of the module that calls, which Python takes `ABCMeta`'s for."""
    return {"__module__": frame.f_globals["__name__"], **body}


class Open(type(Protocol)):  # type: ignore[misc]
    """Metaclass of classes that may have `ABC` and protocols for further bases, as those may whose metaclass is `type`."""

    __instancecheck__ = ABCMeta.__instancecheck__  # a protocol's own asks every class whether it is one

    def __new__(mcls, name: str, bases: tuple[type, ...], body: dict[str, Any], **options: Any) -> Any:
        return super().__new__(mcls, name, bases, _of_module(body, sys._getframe(1)), **options)


class StandIn(Open):
    """Metaclass of stand-ins: `class Name(real, metaclass=StandIn, stands_for=real)`; and of the classes that a user derives
    from one, which inherit from the real class and, before it, from what the stand-in does itself.
    """

    user_metaclass: type | None = None
    """Metaclass of the classes that are derived from a stand-in, if not the same."""
    is_subclass = True
    """Whether the real class can be inherited from."""

    def __new__(
        mcls, name: str, bases: tuple[type, ...], body: dict[str, Any], *, stands_for: Any = None, **options: Any
    ) -> Any:
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
    """The class that a user derives from stand-ins: of torch's classes, and before one of what its stand-in does itself."""
    kinds = {type(base) for base in bases if real_of(base)}
    real = tuple(real_of(base) or base for base in bases)
    if kinds == {metaclass} and metaclass.user_metaclass:
        return metaclass.user_metaclass(name, real, body, **options)
    bases = tuple(itertools.chain.from_iterable(map(_doing, real)))
    return super(StandIn, metaclass).__new__(metaclass, name, bases, body, **options)


def _doing(real: type) -> tuple[type, ...]:
    """A base, after its stand-in if that does anything itself."""
    stand_in = _standing.get(real)
    return (stand_in, real) if stand_in is not None and _dict_of(stand_in)["_gt_own"] else (real,)


def _reduce(cls: StandIn) -> Any:
    """A stand-in is pickled as the class it stands for (which `copy` returns as it is), any other class by its name."""
    return (copy.copy, (real_of(cls),)) if real_of(cls) else cls.__qualname__


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


def placing_class(real: Any, parameter: str, defaults: Callable[[], dict[str, Any]] = dict) -> type:
    """A class of `gt` that is constructed for the kind of a device; `defaults` are the CPU's, where the devices differ."""
    construct = placing_kind(real.__init__, parameter, 1)

    @functools.wraps(real.__init__)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if "cpu" in (kwargs.get(parameter), *args[:1]) and len(args) < 2:
            kwargs = {**defaults(), **{name: value for name, value in kwargs.items() if value is not None}}
        construct(self, *args, **kwargs)

    return StandIn(real.__name__, (real,), {"__init__": init}, stands_for=real)  # type: ignore[no-any-return]


# -- classes whose constructors make tensors: modules, distributions --------------------------------------------------------


class RemoteByDefault(Open):
    """Calling such a class builds under the remote device: metaclass of what a user derives from a module of `gt`."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        real = real_of(cls)
        with contextlib.nullcontext() if device_chosen() else REMOTE:
            return placing(real)(*args, **kwargs) if real else super().__call__(*args, **kwargs)

    @property
    def __signature__(cls) -> inspect.Signature:
        """Of the constructor, for `inspect.signature`."""
        whole = inspect.signature(cls.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])


class RemoteStandIn(StandIn, RemoteByDefault):
    """Metaclass of the stand-ins themselves."""

    user_metaclass = RemoteByDefault


BUILT_REMOTELY = {
    "torch.nn": torch.nn.Module,
    "torch.ao": torch.nn.Module,
    "torch.distributions": torch.distributions.Distribution,
}
"""Packages, and the base of the classes in them that have a stand-in."""


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
    """Metaclass of `gt.Tensor` and of the tensor classes that a user derives from it."""


def _new(dtype: torch.dtype, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    of_array = len(args) == 1 and isinstance(args[0], numpy.ndarray)
    made = torch.empty(0, dtype=dtype, device="cpu" if of_array else default_device()).new(*args, **kwargs)
    return sent(made) if of_array else made


def _new_tensor(cls: type, *args: Any, **kwargs: Any) -> Any:
    real = real_of(cls) or cls
    if args and isinstance(args[0], torch.Tensor):  # another name for the same elements, wherever they are
        return torch.Tensor.__new__(real, *args, **kwargs)
    made = _new(torch.get_default_dtype(), args, kwargs)
    return made if real is torch.Tensor else made.as_subclass(real)


class Apart(StandIn):
    """Metaclass of stand-ins for classes of C, which has them made here and told apart by its own means."""

    is_subclass = False

    def __getattr__(cls, name: str) -> Any:
        return getattr(real_of(cls), name)


class TensorType(Apart):
    """Metaclass of `gt.FloatTensor` and the like, which tensors are converted to and told apart by, and which make them."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _new(cls.dtype, args, kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        strided = isinstance(instance, torch.Tensor) and instance.layout is torch.strided
        return strided and instance.dtype is cls.dtype and instance.device.type in ("remote", "cpu")


class GeneratorStandIn(Apart):
    """Metaclass of `gt.Generator`: a generator for the remote device is one of the client's, which travels with a call."""

    def __call__(cls, device: Any = None) -> torch.Generator:
        return torch.Generator("cpu" if device is None or torch.device(device).type == "remote" else device)


Generator = GeneratorStandIn("Generator", (), {}, stands_for=torch.Generator)
Tensor = TensorStandIn("Tensor", (torch.Tensor,), {"__new__": _new_tensor}, stands_for=torch.Tensor)
TENSOR_TYPES = {
    # `x.type(...)` goes by the name, and PyTorch knows the device's types by these
    name: TensorType(f"torch.remote.{name}", (), {}, stands_for=real)
    for name, real in vars(torch).items()
    if isinstance(real, type(torch.FloatTensor))
}
for _metaclass in (StandIn, RemoteStandIn, GeneratorStandIn, TensorStandIn, TensorType):
    copyreg.pickle(_metaclass, _reduce)  # type: ignore[arg-type]
