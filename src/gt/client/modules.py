"""What Python code of `torch.nn` needs to know of remote tensors: lazy modules that move, choices made by device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from gt.client.special import NestedError


def _shaped(tensor: torch.Tensor) -> torch.Tensor:
    """The empty tensor under a parameter without a shape, of which alone another parameter can be made."""
    return tensor.data if isinstance(tensor, UninitializedParameter) else tensor


def _swap_what_moves() -> None:
    """Parameters that change device are swapped, so that tied ones stay tied; others keep their tensors, as PyTorch does it
    between its own devices: a swap is refused while a graph refers to the parameter."""
    apply = torch.nn.Module._apply
    swapping = torch.__future__.get_swap_module_params_on_conversion

    @functools.wraps(apply)
    def _apply(self: torch.nn.Module, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> torch.nn.Module:
        first = next((p for p in self._parameters.values() if p is not None), None)
        if first is None:
            return apply(self, fn, recurse)
        with torch.no_grad():
            found = fn(first)
        before, moves = swapping(), found.device != first.device
        torch.__future__.set_swap_module_params_on_conversion(before or moves)
        try:
            return apply(self, lambda t: found if t is first else fn(t), recurse)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)

    torch.nn.Module._apply = _apply  # type: ignore[method-assign]


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


def install() -> None:
    _swap_what_moves()
    _keep_lazy()
    _encode_padded()
    _choose_as_on_the_cpu()
