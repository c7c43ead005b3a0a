"""What Python code of `torch.nn` needs to know of remote tensors: lazy modules that move, choices made by device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy


def _shaped(tensor: torch.Tensor) -> torch.Tensor:
    """The empty tensor under a parameter without a shape, of which alone another parameter can be made."""
    return tensor.data if isinstance(tensor, UninitializedParameter) else tensor


def _keep_lazy() -> None:
    """A parameter without a shape stays one when it is moved: swapping tensors alone would make it an empty parameter."""
    apply = torch.nn.Module._apply

    @functools.wraps(apply)
    def _apply(self: torch.nn.Module, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> torch.nn.Module:
        lazy = {name: type(p) for name, p in self._parameters.items() if p is not None and is_lazy(p)}
        apply(self, (lambda t: _shaped(fn(t))) if lazy else fn, recurse)
        for name, kind in lazy.items():
            self._parameters[name].__class__ = kind
        return self

    LazyModuleMixin._apply = _apply


def _choose_as_on_the_cpu() -> None:
    """`linear_cross_entropy` chooses its precision by the kind of device: here as on the CPU, so that results are equal."""
    options = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if options is None:  # torch < 2.13
        return
    adjust = options._adjust

    @functools.wraps(adjust)
    def _adjust(self: Any, *args: Any, device: torch.device | None = None, **kwargs: Any) -> Any:
        chosen = torch.device("cpu") if device is not None and device.type == "remote" else device
        return adjust(self, *args, device=chosen, **kwargs)

    options._adjust = _adjust


def install() -> None:
    _keep_lazy()
    _choose_as_on_the_cpu()
