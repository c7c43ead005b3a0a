"""Classes of torch whose constructors make tensors, under `import gt as torch`: modules, distributions, and what takes the
type of a device.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._device import DeviceContext

from gt.facade.cpu_alias import REMOTE, device_chosen, placing, placing_kind
from gt.facade.stand_ins import Open, StandIn, pickle_by_reduce, real_of, stand_in_of


def _remotely() -> DeviceContext:
    """`with REMOTE`, without a call of `torch.device` that a program's `TorchFunctionMode` would see."""
    with torch._C.DisableTorchFunction():
        return DeviceContext(REMOTE)


class RemoteByDefault(Open):
    """The metaclass of classes that a user derives from a module of `gt`: calling one builds under the remote device."""

    def __call__(cls, /, *args: Any, **kwargs: Any) -> Any:
        """Construct under the remote device, unless the user chose another."""
        real = real_of(cls)
        with contextlib.nullcontext() if device_chosen() else _remotely():
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
    return stand_in_of(real) or RemoteStandIn(real.__name__, (real,), {}, stands_for=real)


def placing_class(real: Any, parameter: str, defaults: Callable[[], dict[str, Any]] = dict) -> type:
    """A class of `gt` whose constructor takes a device type; `defaults`: the CPU's defaults where the devices' differ."""
    construct = placing_kind(real.__init__, parameter, 1)

    @functools.wraps(real.__init__)
    def init(self: Any, /, *args: Any, **kwargs: Any) -> None:
        if "cpu" in (kwargs.get(parameter), *args[:1]) and len(args) < 2:
            kwargs = {**defaults(), **{name: value for name, value in kwargs.items() if value is not None}}
        construct(self, *args, **kwargs)

    return StandIn(real.__name__, (real,), {"__init__": init}, stands_for=real)  # type: ignore[no-any-return]


pickle_by_reduce(RemoteStandIn)
