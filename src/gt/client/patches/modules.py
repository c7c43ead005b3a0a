"""Patches of `torch.nn` and `torch.optim`: choices that their Python makes by the device are made as on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gt.client.kernels.local_answers import NestedError


def precision_of_cpu(original: Callable[..., Any]) -> Callable[..., Any]:
    """`linear_cross_entropy` chooses its precision by the kind of device: the CPU's choice is taken."""

    @functools.wraps(original)
    def _adjust(self: Any, *args: Any, device: torch.device | None = None, **kwargs: Any) -> Any:
        chosen = torch.device("cpu") if device is not None and device.type == "remote" else device
        return original(self, *args, device=chosen, **kwargs)

    return _adjust


def looping(original: Callable[..., tuple[bool, bool]]) -> Callable[..., tuple[bool, bool]]:
    """Some optimizers' foreach form, PyTorch's choice on a device, rounds differently from the loop, its choice on a CPU."""

    @functools.wraps(original)
    def choose(params: list[torch.Tensor], *args: Any, **kwargs: Any) -> tuple[bool, bool]:
        return (False, False) if any(p.device.type == "remote" for p in params) else original(params, *args, **kwargs)

    return choose


def without_remote(original: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """`AveragedModel` averages lists of tensors on a device, which fails for integers; on a CPU it takes one by one."""
    return lambda: [kind for kind in original() if kind != "remote"]


def no_devices(original: Callable[[], str | None]) -> Callable[[], str | None]:
    """`DataParallel` has no devices to divide a batch among, as where there is only a CPU, and calls its module."""

    def available() -> str | None:
        kind = original()
        return None if kind == "remote" else kind

    return available


def as_on_a_cpu(original: Callable[..., Any]) -> Callable[..., Any]:
    """`flex_attention` knows the devices by name: what it refuses and keeps of a remote tensor, it does as of a CPU's."""

    @functools.wraps(original)
    def choose(*args: Any, **kwargs: Any) -> Any:
        return original(*map(_local, args), **kwargs)

    return choose


def _local(value: Any) -> Any:
    """For a remote tensor an empty one of this process."""
    if not isinstance(value, torch.Tensor) or value.device.type != "remote":
        return value
    return torch.empty(0, dtype=value.dtype, device="cpu", requires_grad=value.requires_grad)


def dropping_between_layers(original: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's Python decomposition of recurrent networks forgets the dropout between the layers."""

    @functools.wraps(original)
    def _rnn_helper(
        input: torch.Tensor,
        hidden: Any,
        params: Any,
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
        layer_fn: Callable[..., Any],
    ) -> Any:
        if input.device.type != "remote" or not (dropout and train):
            rest = (hidden, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, layer_fn)
            return original(input, *rest)
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        """What each layer was given, and what is left of it; the two directions of a layer are given the same."""

        def layer(given: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not seen or seen[-1][0] is not given:
                seen.append((given, torch.dropout(given, dropout, True) if seen else given))
            return layer_fn(seen[-1][1], *args, **kwargs)

        return original(input, hidden, params, has_biases, num_layers, 0.0, train, bidirectional, batch_first, layer)

    return _rnn_helper


def encoding_padded(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Where `TransformerEncoder` would leave padding out by a nested tensor, it is computed and set to zero instead."""

    @functools.wraps(original)
    def forward(
        self: Any, src: torch.Tensor, mask: Any = None, src_key_padding_mask: Any = None, *args: Any, **kw: Any
    ) -> torch.Tensor:
        try:
            return original(self, src, mask, src_key_padding_mask, *args, **kw)
        except NestedError:
            norm, self.norm, self.use_nested_tensor = self.norm, None, False
            try:
                out = original(self, src, mask, src_key_padding_mask, *args, **kw)
            finally:
                self.norm, self.use_nested_tensor = norm, True
            padding = src_key_padding_mask if src_key_padding_mask.dtype == torch.bool else src_key_padding_mask != 0
            out = out.masked_fill(padding.unsqueeze(-1), 0)
            return out if norm is None else norm(out)  # type: ignore[no-any-return]

    return forward
