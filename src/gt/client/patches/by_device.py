"""Stand-ins for classes that are constructed in C++ or Rust for the device that they are given: `torch.Generator`,
`torch.Stream`, `torch.Event`, `safetensors.safe_open`.

Such code knows no device that is written in Python. Called for the remote device, a stand-in makes an object of a Python
class instead; in all else it is the real class: to `isinstance`, `issubclass`, `==`, `hash`, pickle, attributes, and
classes that derive from it. Only `is` tells the two apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def names_remote(device: Any) -> bool:
    """Whether a device, its name or its index means the remote device. What is no device does not."""
    try:
        return device is not None and torch.device(device).type == "remote"
    except (RuntimeError, TypeError):
        return False


class ByDevice(type):
    """The metaclass of stand-ins, which `standing_for` makes."""

    real: type
    remote: type
    is_meant: Callable[..., bool]

    def __new__(mcls, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **options: Any) -> Any:
        """A class that a user derives from a stand-in: it derives from the real class."""
        return type(name, tuple(base.real if isinstance(base, ByDevice) else base for base in bases), body, **options)

    def __call__(cls, /, *args: Any, **kwargs: Any) -> Any:
        """Make an object for the remote device if that is meant, else one of the real class."""
        return (cls.remote if cls.is_meant(*args, **kwargs) else cls.real)(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.real, name)

    def __dir__(cls) -> list[str]:
        return dir(cls.real)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, (cls.real, cls.remote))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return subclass is cls or issubclass(subclass, (cls.real, cls.remote))

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.real or NotImplemented

    def __hash__(cls) -> int:
        return hash(cls.real)

    def __repr__(cls) -> str:
        return repr(cls.real)


def standing_for(module: str, remote: type, is_meant: Callable[..., bool]) -> Callable[[type], ByDevice]:
    """The patch of a class of `module`: a stand-in that calls `remote` where `is_meant`, with the arguments of the call."""

    def wrap(real: type) -> ByDevice:
        body = {"__module__": module, "__doc__": real.__doc__, "real": real, "remote": remote}
        return type.__new__(ByDevice, real.__name__, (), {**body, "is_meant": staticmethod(is_meant)})

    return wrap
