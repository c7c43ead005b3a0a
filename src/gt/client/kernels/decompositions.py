"""Operators that are decomposed into others here; their gradients follow from the parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import linear

from gt.client.calls.schemas import OpOverload
from gt.client.kernels.kernel import kernel

aten = torch.ops.aten


def fused_lstm_cell(
    input_gates: torch.Tensor,
    hidden_gates: torch.Tensor,
    cx: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    hidden_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`_thnn_fused_lstm_cell` from its parts, as the CPU computes it."""
    return _lstm(_biased(hidden_gates, hidden_bias) + _biased(input_gates, input_bias), cx)


def _lstm(gates: torch.Tensor, cx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Overwrites the gates, as the CPU does: the strides of what is computed decide its last bits."""
    i, f, g, o = gates.unsafe_chunk(4, 1)
    i, f, g, o = i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
    cy = (f * cx).add_(i * g)
    return o * cy.tanh(), cy, gates


def fused_gru_cell(
    input_gates: torch.Tensor,
    hidden_gates: torch.Tensor,
    hx: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    hidden_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_thnn_fused_gru_cell` from its parts, as the CPU computes it."""
    own = hidden_gates.clone() if hidden_bias is None else hidden_gates + hidden_bias
    return _gru(_biased(input_gates, input_bias), own, hx)


def _gru(input_gates: torch.Tensor, hidden_gates: torch.Tensor, hx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Overwrites the hidden gates, as the CPU does."""
    from_input, from_hidden = input_gates.unsafe_chunk(3, 1), hidden_gates.unsafe_chunk(3, 1)
    reset = from_hidden[0].add_(from_input[0]).sigmoid_()
    update = from_hidden[1].add_(from_input[1]).sigmoid_()
    new = from_input[2].add(from_hidden[2].mul_(reset)).tanh_()
    return (hx - new).mul_(update).add_(new), new


def lstm_cell(
    input: torch.Tensor,
    hx: Sequence[torch.Tensor],
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: torch.Tensor | None = None,
    b_hh: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`lstm_cell` from its parts. (PyTorch's own decomposition, for accelerators, adds the biases after autocast's
    casts.)"""
    return _lstm(linear(hx[0], w_hh, b_hh).add_(linear(input, w_ih, b_ih)), hx[1])[:2]


def gru_cell(
    input: torch.Tensor,
    hx: torch.Tensor,
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: torch.Tensor | None = None,
    b_hh: torch.Tensor | None = None,
) -> torch.Tensor:
    """`gru_cell` from its parts, as the CPU computes it."""
    return _gru(linear(input, w_ih, b_ih), linear(hx, w_hh, b_hh), hx)[0]


CELLS: dict[str, Callable[..., Any]] = {"aten::lstm_cell": lstm_cell, "aten::gru_cell": gru_cell}
"""Composites that are decomposed by these rules and not by PyTorch's."""


def _biased(gates: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return gates if bias is None else gates + bias


def tensor_split(self: torch.Tensor, tensor_indices_or_sections: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """The CPU reads the split positions from memory; here they are fetched."""
    return self.tensor_split(tensor_indices_or_sections.tolist(), dim)


_one_hot = kernel(aten.one_hot.default)


def one_hot(self: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """With the CPU's checks. On an accelerator PyTorch looks at the largest class only, and negative ones pass unnoticed."""
    if num_classes < 1 and self.numel() and self.dtype is torch.int64:
        smallest, largest = torch.stack(torch.aminmax(self)).tolist()
        if smallest < 0:
            raise RuntimeError("Class values must be non-negative.")
        if num_classes != -1:
            raise RuntimeError("Class values must be smaller than num_classes.")
        num_classes = largest + 1
    return _one_hot(self, num_classes)  # type: ignore[no-any-return]


def _quantile(op: OpOverload) -> Callable[..., Any]:
    """With the CPU's check of the quantiles, which PyTorch leaves out on an accelerator."""
    composite = torch._C.DispatchKey.CompositeImplicitAutograd

    def quantile(self: torch.Tensor, q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if q.dim() < 2 and self.dtype is q.dtype and not bool(((q >= 0) & (q <= 1)).all()):
            raise RuntimeError("quantile() q values must be in the range [0, 1]")
        return op._op_dk(composite, self, q, *args, **kwargs)  # type: ignore[no-any-return]

    return quantile


PARTS: dict[str, Callable[..., Any]] = {
    "_thnn_fused_lstm_cell": fused_lstm_cell,
    "_thnn_fused_gru_cell": fused_gru_cell,
    "tensor_split.tensor_indices_or_sections": tensor_split,
    "one_hot": one_hot,
    "quantile": _quantile(aten.quantile.default),
    "nanquantile": _quantile(aten.nanquantile.default),
}
