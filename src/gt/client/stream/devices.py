"""Errors about devices: one that does not exist, or two that do not go together."""

from __future__ import annotations

import torch

REMOTE = torch.device("privateuseone", 0)
"""The remote device. Here it has not got its name yet."""


def check_index(device: torch.device | None) -> None:
    """Raises RuntimeError where a program names a remote device that does not exist."""
    if device is not None and device.type == "remote" and device.index:
        raise RuntimeError(
            f"{device}: invalid device ordinal. There is one remote device, remote:0; a dispatcher places its tensors"
        )


def mixed_devices(tensor: torch.Tensor) -> str:
    """PyTorch's error text for operands on two devices, with a hint."""
    text = f"Expected all tensors to be on the same device, but found at least two devices, remote:0 and {tensor.device}!"
    if isinstance(tensor, torch.nn.Parameter):
        text += (
            "\n  hint: this parameter was made by a module of `torch.nn`. Beside `import gt as torch`, write"
            " `import gt.nn as nn` (or `from gt import nn`), or move the module: module.to('remote')"
        )
    else:
        text += (
            "\n  hint: under `import gt as torch` tensors are made remote; this one was made by `import torch` beside it, by"
            " another library, by a factory in a scripted function, by `.cpu()` or by `.type('torch.FloatTensor')`. Move it,"
            " or what holds it, such as a metric: .to('remote')"
        )
    return text


def crosses(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether one tensor is remote and the other on the CPU, both strided: `tensor.data = other` may change the device."""
    kinds = {one.device.type, other.device.type}
    return kinds == {"remote", "cpu"} and one.layout is torch.strided and other.layout is torch.strided
