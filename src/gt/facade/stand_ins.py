"""What a stand-in for a class or function of torch's is under `import gt as torch`.

A stand-in is the real class to `isinstance`, `issubclass`, `==`, `hash`, pickle and code that sets its attributes; calling
it returns an instance of the real class. Only `is` tells the two apart. `__subclasses__` of torch's classes, by which
libraries find what to patch, does not list stand-ins, but the classes that users derive from them.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import importlib
import itertools
import sys
import warnings
from abc import ABCMeta
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType, FunctionType, MappingProxyType, MethodType
from typing import Any, Protocol

_dict_of = type.__dict__["__dict__"].__get__
_mro_of = type.__dict__["__mro__"].__get__
_standing: dict[type, Any] = {}
"""The stand-in of a class; one per class."""


def real_of(cls: Any) -> Any:
    """The class that a stand-in stands for, None for any other."""
    return _dict_of(cls).get("_gt_real")


def stand_in_of(real: type) -> Any:
    """The stand-in of a class; None if it has none."""
    return _standing.get(real)


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


def _unwarned(real: type) -> AbstractContextManager[Any]:
    """Without the warning that a deprecated class gives of classes that are derived from it. For that one only: Python shows
    warnings again that it has shown once its filters change."""
    return warnings.catch_warnings(action="ignore") if "__deprecated__" in vars(real) else nullcontext()


def _is_abstract_base(cls: type) -> bool:
    """Whether a class would make those derived from it abstract without stand-ins: `ABC`, protocols."""
    return isinstance(cls, ABCMeta) and not isinstance(cls, Open)


class Open(type(Protocol)):  # type: ignore[misc]
    """The metaclass of classes that may also derive from `ABC` and protocols, as if their metaclass were `type`."""

    __instancecheck__ = ABCMeta.__instancecheck__  # a protocol's own check asks every class

    def __new__(mcls, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **options: Any) -> Any:
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
        mcls, name: str, bases: tuple[type, ...], body: dict[str, Any], /, *, stands_for: Any = None, **options: Any
    ) -> Any:
        """Make a stand-in (`stands_for` given), or a class that a user derives from one."""
        if stands_for is None:
            return _derive(mcls, name, bases, _of_module(body, sys._getframe(1)), options)
        own = frozenset(body) - {"__module__", "__qualname__", "__doc__", "__classcell__", "__orig_bases__"}
        with _unwarned(stands_for):
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


class Apart(StandIn):
    """The metaclass of stand-ins for classes defined in C, which construct and recognise their instances in their own
    way."""

    is_subclass = False

    def __getattr__(cls, name: str) -> Any:
        return getattr(real_of(cls), name)


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


def pickle_by_reduce(*metaclasses: type) -> None:
    """Let the classes of these metaclasses be pickled as what they stand for."""
    for metaclass in metaclasses:
        copyreg.pickle(metaclass, reduced)  # type: ignore[arg-type]


def reduced(cls: Any) -> Any:
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


pickle_by_reduce(StandIn)
