"""`torch.Tensor(...)`, `torch.FloatTensor(...)` and the like, and `torch.Generator`, under `import gt as torch`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy
import torch

from gt.facade.cpu_alias import default_device, placed, sent
from gt.facade.stand_ins import Apart, StandIn, pickle_by_reduce, real_of


class TensorStandIn(StandIn, type(torch.Tensor)):  # type: ignore[misc]
    """The metaclass of `gt.Tensor` and of the tensor classes that a user derives from it."""


def _new(dtype: torch.dtype, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    of_array = len(args) == 1 and isinstance(args[0], numpy.ndarray)
    made = torch.empty(0, dtype=dtype, device="cpu" if of_array else default_device()).new(*args, **kwargs)
    return sent(made) if of_array else made


def _new_tensor(cls: type, /, *args: Any, **kwargs: Any) -> Any:
    real = real_of(cls) or cls
    if args and isinstance(args[0], torch.Tensor):  # an alias of the same elements, wherever they are
        return torch.Tensor.__new__(real, *args, **kwargs)
    made = _new(torch.get_default_dtype(), args, kwargs)
    return made if real is torch.Tensor else made.as_subclass(real)


def as_subclass(original: Callable[..., Any]) -> Callable[..., Any]:
    """The patch of `Tensor.as_subclass`."""

    @functools.wraps(original)
    def method(self: torch.Tensor, cls: Any) -> Any:
        return original(self, (isinstance(cls, type) and real_of(cls)) or cls)

    return method


class TensorType(Apart):
    """The metaclass of `gt.FloatTensor` and the like, which make tensors, and by which tensors are converted and
    recognised."""

    def __call__(cls, /, *args: Any, **kwargs: Any) -> Any:
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
pickle_by_reduce(GeneratorStandIn, TensorStandIn, TensorType)
