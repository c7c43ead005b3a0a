"""Patches of `torch.accelerator`, whose C++ hooks a Python device cannot give: the device's module answers instead."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch.accelerator._utils import _get_device_index

from gt.client.stream import devices


def answering(original: Any) -> Any:
    """A function that calls the one of the same name in `torch.remote` if the remote device is the accelerator.

    Its only arguments are devices, by name or by position.
    """
    bind = inspect.signature(original).bind

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        chosen = torch.accelerator.current_accelerator()
        if chosen is None or chosen.type != "remote":
            return original(*args, **kwargs)
        given = bind(*args, **kwargs).args
        for device in given:
            index = _get_device_index(device, optional=True)  # raises if it is of another kind
            devices.check_index(torch.device("remote", index))
        return getattr(torch.remote, original.__name__)(*given)

    return call
