"""Patches of `torch.accelerator`, whose C++ hooks a Python device cannot give: the device's module answers instead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch.accelerator._utils import _get_device_index

from gt.client.stream import devices


def is_remote() -> bool:
    """Whether the remote device is the accelerator."""
    chosen = torch.accelerator.current_accelerator()
    return chosen is not None and chosen.type == "remote"


def answering(original: Any) -> Any:
    """A function that calls the one of the same name in `torch.remote` if the remote device is the accelerator.

    Its only arguments are devices, by name or by position.
    """
    bind = inspect.signature(original).bind

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not is_remote():
            return original(*args, **kwargs)
        given = bind(*args, **kwargs).args
        _check(given)
        return getattr(torch.remote, original.__name__)(*given)

    return call


def _check(given: Iterable[Any]) -> None:
    """Raises ValueError for a device of another kind, RuntimeError for an index that there is not."""
    for device in given:
        devices.check_index(torch.device("remote", _get_device_index(device, optional=True)))


CONVERTIBLE = """
    bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz
    float8_e8m0fnu bfloat16 float16 float32 float64 complex32 complex64 complex128
"""
"""The dtypes to which and from which workers convert."""


def capability(original: Any) -> Any:
    """`get_device_capability`."""

    @functools.wraps(original)
    def get_device_capability(device: Any = None, /) -> dict[str, Any]:
        if not is_remote():
            return original(device)  # type: ignore[no-any-return]
        _check([device])
        return {"supported_dtypes": {getattr(torch, name) for name in CONVERTIBLE.split()}}

    return get_device_capability


def checking_index(original: Any) -> Any:
    """`device_index(...)`, as a context."""

    @functools.wraps(original)
    def enter(self: Any) -> None:
        if is_remote() and self.idx is not None and self.idx > 0:
            devices.check_index(torch.device("remote", self.idx))
        original(self)

    return enter
