"""The meaning of `"cpu"` in a file that says `import gt as torch`: the remote device, where its tensors are.

A script that runs on a CPU calls its one device "cpu" (`device = "cuda" if torch.cuda.is_available() else "cpu"`, then
`.to(device)`); it names it in one line and leaves it out in the next. In a ported file the name stands for the device that
takes the CPU's place. Functions reached through `gt` know that they were. For methods the caller's file decides, so that
libraries, and files that import torch itself, move tensors to this process's memory as before; but a library's `to` only
passes on what its caller says. `.cpu()` fetches everywhere.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping
from types import FrameType, ModuleType
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

REMOTE = torch.device("remote", 0)


def in_loader_process() -> bool:
    """Whether this is a `DataLoader`'s worker process, in which tensors are local; the loader moves the batches."""
    info = sys.modules.get("torch.utils.data._utils.worker")
    return info is not None and info.get_worker_info() is not None


def names_the_cpu(device: Any) -> bool:
    """Whether a device, or its name, is the CPU."""
    if isinstance(device, torch.device):
        return device.type == "cpu"
    return isinstance(device, str) and device.partition(":")[0] == "cpu"


def placed(device: Any) -> Any:
    """The device that a ported file means."""
    return REMOTE if names_the_cpu(device) and not in_loader_process() else device


def device_chosen() -> bool:
    """Whether the user chose another device by `with torch.device(...)` or `set_default_device`."""
    stack = _get_current_function_mode_stack()
    return any(isinstance(mode, DeviceContext) and not names_the_cpu(mode.device) for mode in stack)


def default_device() -> torch.device:
    """The device of new tensors in a ported file."""
    if device_chosen():
        return torch.get_default_device()
    return torch.device("cpu") if in_loader_process() else REMOTE


def placed_kind(kind: Any) -> Any:
    """As `placed`, for the type of a device, a string."""
    return "remote" if kind == "cpu" else kind


GAPS_BYTES = 1 << 20
"""The most memory that may be wasted between the elements of an array on the device, if it exceeds the elements' own."""


def sent(local: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    """Move a tensor that was made from an array to its device, with the array's strides if the gaps are small."""
    device, size, stride = device or default_device(), local.shape, local.stride()
    span = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if local.numel() else 0
    gaps = (span - local.numel()) * local.element_size()
    if device.type != "remote" or not gaps or gaps > max(GAPS_BYTES, local.nbytes):
        return local.to(device)
    whole = torch.as_strided(local.detach(), (span,), (1,)).to(device)
    return whole.as_strided(size, stride).requires_grad_(local.requires_grad)


def placing(function: Callable[..., Any], parameter: str = "device") -> Callable[..., Any]:
    """A function of `gt` that takes a device as a keyword."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if parameter in kwargs:
            kwargs[parameter] = placed(kwargs[parameter])
        return function(*args, **kwargs)

    return call


def making(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch's Python that makes tensors: on the default device of a ported file, if it is given none."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def make(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # raises it in PyTorch's words
        device = given.arguments.get("device")
        given.arguments["device"] = default_device() if device is None else placed(device)
        return function(*given.args, **given.kwargs)

    return make


def placing_kind(function: Callable[..., Any], parameter: str = "device_type", position: int = 0) -> Callable[..., Any]:
    """A function of `gt` that takes a device type, by position or as a keyword."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if parameter in kwargs:
            kwargs[parameter] = placed_kind(kwargs[parameter])
        before, kind, after = args[:position], args[position : position + 1], args[position + 1 :]
        return function(*before, *map(placed_kind, kind), *after, **kwargs)

    return call


# -- methods: the caller's file decides ----------------------------------------------------------------------------------


def _names_gt_as_torch(namespace: Mapping[str, Any]) -> bool:
    """Whether a file has modules of `gt` under torch's names, and not torch itself."""
    modules = [(name, value) for name, value in namespace.items() if isinstance(value, ModuleType)]
    of_gt = any(value.__name__.partition(".")[0] == "gt" and name != "gt" for name, value in modules)
    return of_gt and not any(value is torch for _, value in modules)


_rule: Callable[[Mapping[str, Any]], bool] = _names_gt_as_torch
"""Whether the file with these globals is a ported one."""


def decides(rule: Callable[[Mapping[str, Any]], bool]) -> None:
    """From now on this rule says which files are ported ones, by their globals: `gt run` decides for libraries too."""
    global _rule
    _rule = rule


def means_the_workers_everywhere() -> bool:
    """Whether libraries mean the workers too when they say "cpu", as under `gt run`."""
    return _rule is not _names_gt_as_torch


def chosen_for_training(chosen: torch.device) -> torch.device:
    """The device on which a library trains that has found no other than the CPU: where that does not mean the workers
    already, they are taken as a GPU would be."""
    return chosen if means_the_workers_everywhere() or not names_the_cpu(chosen) else REMOTE


def _is_ported(frame: FrameType) -> bool:
    return _rule(frame.f_globals)


def called_by_ported() -> bool:
    """Whether the caller of the calling function is a ported file, directly or through PyTorch's own Python."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "torch":
        frame = frame.f_back
    return frame is not None and _is_ported(frame)


def _asked_by_ported(frame: FrameType | None) -> bool:
    """Whether a ported file asked for the CPU: in this frame, or through a library's `to` around it that was given "cpu"."""
    while frame is not None and not _is_ported(frame):
        while frame is not None and not (frame.f_code.co_name == "to" and _is_given_the_cpu(frame)):
            frame = frame.f_back
        frame = frame and frame.f_back
        while frame is not None and frame.f_code.co_flags & WRAPPER == WRAPPER and _is_given_the_cpu(frame):
            frame = frame.f_back
    return frame is not None


WRAPPER = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
"""The flags of a decorator's code, which passes on whatever it is given."""


def _is_given_the_cpu(frame: FrameType) -> bool:
    """Whether an argument of this frame's function names the CPU."""
    code, values = frame.f_code, frame.f_locals
    count = code.co_argcount + code.co_kwonlyargcount
    given = [values.get(name) for name in code.co_varnames[: count + (code.co_flags & WRAPPER).bit_count()]]
    inside = (value.values() if isinstance(value, dict) else value for value in given if isinstance(value, (tuple, dict)))
    return any(map(names_the_cpu, itertools.chain(given, *inside)))


def to_device(original: Callable[..., Any]) -> Callable[..., Any]:
    """The patch of `to` of tensors and modules, which take a device first or as a keyword."""

    @functools.wraps(original)
    def to(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device") or (args[0] if args else None)
        if names_the_cpu(device) and _asked_by_ported(sys._getframe(1)):
            args, kwargs = tuple(map(placed, args)), {name: placed(value) for name, value in kwargs.items()}
        return original(self, *args, **kwargs)

    return to


def made_for_ported(original: Callable[..., Any]) -> Any:
    """The patch of a static method that makes tensors."""
    make = making(original)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (make if called_by_ported() else original)(*args, **kwargs)

    return staticmethod(call)


def new_like(original: Callable[..., Any]) -> Callable[..., Any]:
    """The patch of `new_zeros` and its like."""

    @functools.wraps(original)
    def new(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if names_the_cpu(kwargs.get("device")) and _is_ported(sys._getframe(1)):
            kwargs["device"] = placed(kwargs["device"])
        return original(self, *args, **kwargs)

    return new


def type_of(original: Callable[..., Any]) -> Callable[..., Any]:
    """The patch of `Tensor.type`, which returns or takes the name of a type; the CPU's names contain no device."""

    @functools.wraps(original)
    def type(self: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if self.device.type != "remote" or not called_by_ported():
            return original(self, dtype, *args, **kwargs)
        if dtype is None:
            return original(self).replace("torch.remote.", "torch.")
        if isinstance(dtype, str) and dtype.startswith("torch.") and dtype.count(".") == 1:
            dtype = dtype.replace("torch.", "torch.remote.")
        return original(self, dtype, *args, **kwargs)

    return type


def not_compiling(original: Callable[..., None]) -> Callable[..., None]:
    """The patch of `Module.compile`: workers decide what to compile, the module runs as it is."""

    @functools.wraps(original)
    def compile(self: Any, /, *args: Any, **kwargs: Any) -> None:
        if not _is_ported(sys._getframe(1)):
            original(self, *args, **kwargs)

    return compile


def kernel_for_both(original: Callable[..., None]) -> Callable[..., None]:
    """The patch of `Library.impl`: a kernel for the CPU also serves the device that takes the CPU's place."""

    @functools.wraps(original)
    def impl(self: Any, op_name: Any, fn: Any, dispatch_key: str = "", **options: Any) -> None:
        original(self, op_name, fn, dispatch_key, **options)
        if (dispatch_key or self.dispatch_key) == "CPU" and called_by_ported():
            original(self, op_name, fn, "PrivateUse1", **options)

    return impl
