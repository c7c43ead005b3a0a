"""Patches of `torch.Tensor`: copying, saving, moving, and the default dtype that its operators depend on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin

from gt.client.kernels import linear
from gt.client.patches.patch import for_remote
from gt.client.stream import devices, operands
from gt.client.stream.definitions import definitions

Tensor = torch.Tensor
INDICES = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}


@for_remote
def without_operand(original: Callable[..., Any], self: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The cached operand is not part of a tensor's state: it is dropped before the state is copied or saved."""
    operands.forget_operand(self)
    return original(self, *args, **kwargs)


@for_remote
def pickled_parts(original: Callable[..., Any], self: Tensor, protocol: int) -> Any:
    """A sparse tensor is pickled by its parts, as on the CPU. PyTorch would do so by its device, for want of a storage."""
    if self.layout is torch.strided:
        return original(self, protocol)
    if self.layout is torch.sparse_coo:
        parts: tuple[Any, ...] = (self._indices(), self._values(), self.size(), self.is_coalesced())
    else:
        parts = (*(getattr(self, name)() for name in INDICES[self.layout]), self.values(), self.size())
    return torch._utils._rebuild_sparse_tensor, (self.layout, parts)


def data(original: Any) -> property:
    """`tensor.data = value`, by which modules move their parameters."""

    def set_data(self: Tensor, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            _set_data(self, value)
        else:
            original.__set__(self, value)  # raises

    return property(original.__get__, set_data, original.__delete__)


def _set_data(self: Tensor, value: Tensor) -> None:
    if devices.crosses(self, value):
        _change_device(self, value)
        return
    known = self.device.type == "remote" and self.layout is torch.strided and not isinstance(self, UninitializedTensorMixin)
    before = operands.operand(self)[0] if known else 0
    operands.set_data(self, value)
    if known and operands.operand(self)[0] != before:
        linear.note_replaced(self, before)


def _change_device(self: Tensor, value: Tensor) -> None:
    """Give the Python object another tensor, which takes over what autograd knows of the old one: hooks, gradient, flag."""
    new, requires_grad = value.detach(), self.requires_grad
    if requires_grad and self.is_leaf and self._use_count() > 1:  # type: ignore[attr-defined]
        torch.autograd.graph.get_gradient_edge(self).node.register_prehook(_moved_since)
    operands.forget_operand(self)
    torch._C._swap_tensor_impl(self, new)
    self.requires_grad = requires_grad
    self._backward_hooks = self._backward_hooks
    self._post_accumulate_grad_hooks = self._post_accumulate_grad_hooks  # type: ignore[attr-defined]
    if new.is_leaf and new.grad is not None:
        self.grad = new.grad.to(self.device)


def _moved_since(*_: Any) -> None:
    raise RuntimeError("backward reached a tensor that has changed its device since the forward pass; move it before that")


def forgetting_definitions(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Definitions depend on the default dtype, so they are forgotten when it changes."""

    @functools.wraps(original)
    def call(value: Any) -> None:
        original(value)
        definitions.forget()

    return call
