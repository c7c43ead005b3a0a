"""`torch.accelerator` answers for the remote device where that is the accelerator."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch.accelerator._utils import _get_device_index

from gt.client.stream import devices

ACCELERATOR = (
    "synchronize",
    "empty_cache",
    "empty_host_cache",
    "get_memory_info",
    "memory_stats",
    "memory_allocated",
    "max_memory_allocated",
    "memory_reserved",
    "max_memory_reserved",
    "reset_accumulated_memory_stats",
    "reset_peak_memory_stats",
    "set_device_index",
)
"""Functions of `torch.accelerator` that reach for C++ hooks which a Python device cannot give. The device is what they may
be given."""


def install() -> None:
    """`torch.accelerator` answers for the remote device where that is the accelerator."""

    def answering(original: Any, answer: Any) -> Any:
        bind = inspect.signature(original).bind

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            chosen = torch.accelerator.current_accelerator()
            if chosen is None or chosen.type != "remote":
                return original(*args, **kwargs)
            given = bind(*args, **kwargs).args
            for device in given:
                index = _get_device_index(device, optional=True)  # raises where it is of another kind
                devices.check_index(torch.device("remote", index))
            return answer(*given)

        return call

    for name in ACCELERATOR:
        if hasattr(torch.accelerator, name):
            setattr(torch.accelerator, name, answering(getattr(torch.accelerator, name), getattr(torch.remote, name)))
