"""What Python code of `torch.nn` needs to know of remote tensors: choices that it makes by the device."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch


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


LOOPS = ("asgd", "nadam", "radam")
"""Optimizers whose foreach form, PyTorch's choice on a device, rounds otherwise than the loop, its choice on a CPU."""


def _loop_as_on_the_cpu() -> None:
    for name in LOOPS:
        module = importlib.import_module(f"torch.optim.{name}")
        module._default_to_fused_or_foreach = _looping(module._default_to_fused_or_foreach)  # type: ignore[attr-defined]


def _looping(choose: Callable[..., tuple[bool, bool]]) -> Callable[..., tuple[bool, bool]]:
    @functools.wraps(choose)
    def _choose(params: list[torch.Tensor], *args: Any, **kwargs: Any) -> tuple[bool, bool]:
        return (False, False) if any(p.device.type == "remote" for p in params) else choose(params, *args, **kwargs)

    return _choose


def install() -> None:
    _loop_as_on_the_cpu()
    _choose_as_on_the_cpu()
