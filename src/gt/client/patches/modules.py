"""What Python code of `torch.nn` needs to know of remote tensors: choices that it makes by the device."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import swa_utils

from gt.client.kernels.local_answers import NestedError


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


data_parallel = importlib.import_module("torch.nn.parallel.data_parallel")  # the package has a function of this name
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


def _average_as_on_the_cpu() -> None:
    """`AveragedModel` averages lists of tensors on a device, and cannot those of integers, where a CPU takes one by one."""
    supported = swa_utils._get_foreach_kernels_supported_devices
    swa_utils._get_foreach_kernels_supported_devices = lambda: [kind for kind in supported() if kind != "remote"]


def _one_device() -> None:
    """`DataParallel` has no devices to divide a batch among, as where there is only a CPU, and calls its module."""
    available = data_parallel._get_available_device_type
    data_parallel._get_available_device_type = lambda: None if available() == "remote" else available()  # type: ignore[no-untyped-call]


def _encode_padded() -> None:
    """Where `TransformerEncoder` would leave padding out by a nested tensor, it is computed and set to zero instead."""
    encode = torch.nn.TransformerEncoder.forward

    @functools.wraps(encode)
    def forward(
        self: Any, src: torch.Tensor, mask: Any = None, src_key_padding_mask: Any = None, *args: Any, **kw: Any
    ) -> Any:
        try:
            return encode(self, src, mask, src_key_padding_mask, *args, **kw)
        except NestedError:
            norm, self.norm, self.use_nested_tensor = self.norm, None, False
            try:
                out = encode(self, src, mask, src_key_padding_mask, *args, **kw)
            finally:
                self.norm, self.use_nested_tensor = norm, True
            padding = src_key_padding_mask if src_key_padding_mask.dtype == torch.bool else src_key_padding_mask != 0
            out = out.masked_fill(padding.unsqueeze(-1), 0)
            return out if norm is None else norm(out)

    torch.nn.TransformerEncoder.forward = forward  # type: ignore[assignment]


def _print_as_on_the_cpu() -> None:
    """The device of parameters is where it always is: it is not named, as in the text of a tensor."""
    for kind in (torch.nn.ParameterList, torch.nn.ParameterDict):
        kind.extra_repr = _unnamed(kind.extra_repr)  # type: ignore[method-assign,assignment]


def _unnamed(extra_repr: Callable[[Any], str]) -> Callable[[Any], str]:
    @functools.wraps(extra_repr)
    def text(self: Any) -> str:
        return extra_repr(self).replace(" (remote:0)", "").replace("torch.remote.", "torch.")

    return text


def install() -> None:
    _loop_as_on_the_cpu()
    _average_as_on_the_cpu()
    _one_device()
    _encode_padded()
    _choose_as_on_the_cpu()
    _print_as_on_the_cpu()
