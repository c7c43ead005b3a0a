"""CPU tensors among a call's operands: which ones are allowed, and how they become remote."""

from __future__ import annotations

from typing import Any

import torch

from gt.client.calls.schemas import OpOverload
from gt.client.session import recording
from gt.client.stream import devices, geometry, operands, sites

Tensor = torch.Tensor
LOCAL_OPERANDS = {
    "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index",
    "aten::_unsafe_index_put", "aten::_pack_padded_sequence", "aten::_pack_padded_sequence_backward",
    "aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu",
}  # fmt: skip
"""Operators (all overloads) that accept CPU tensors of any size beside a device's: indices, lengths of sequences."""


def lift(tensor: Tensor, any_size: bool = False) -> Tensor:
    """A CPU scalar made remote (PyTorch allows one in operations on any device), or with `any_size` any CPU tensor.

    Raises PyTorch's RuntimeError about mixed devices for any other tensor.
    """
    if tensor.device.type == "remote":
        return tensor
    if any_size and tensor.device.type == "cpu":
        return tensor.to("remote")
    if tensor.dim() or tensor.device.type != "cpu":
        raise RuntimeError(devices.mixed_devices(tensor))
    spec = geometry.intern(torch.Size(()), (), 0, tensor.dtype)
    out = operands.make(spec)
    recording.upload(tensor, operands.operand(out)[0], spec, sites.here())
    return out


def lifted(op: OpOverload, args: tuple[Any, ...]) -> list[Any]:
    """Positional arguments with their CPU tensors made remote. Raises PyTorch's error for one that is not allowed."""
    written = {i for i, a in enumerate(op._schema.arguments) if a.alias_info is not None and a.alias_info.is_write}
    any_size = op._schema.name in LOCAL_OPERANDS

    def one(position: int, value: Any) -> Any:
        if isinstance(value, Tensor):
            if position in written and value.device.type != "remote":
                raise RuntimeError(devices.mixed_devices(value))
            return lift(value, any_size)
        if isinstance(value, (list, tuple)):
            return [one(position, v) for v in value]
        return value

    return [one(i, a) for i, a in enumerate(args)]


def lifted_named(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments with their CPU tensors made remote. Raises PyTorch's error for one that is not allowed."""

    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(v) for v in value]
        return lift(value) if isinstance(value, Tensor) else value

    return {name: one(value) for name, value in kwargs.items()}
