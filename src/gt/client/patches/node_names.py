"""Names of autograd nodes: where a remote tensor has another node than a CPU's, `grad_fn=<...>` prints the CPU's name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gt.client.stream.isolation import isolated

Tensor = torch.Tensor


def _linear(made: Tensor, node: Any) -> str:
    try:
        contiguous = made.dim() < 3 or node._saved_input.is_contiguous()
    except RuntimeError:  # freed by a backward pass
        contiguous = True
    return _linear_on_cpu(made.dim(), node.next_functions[2][0] is not None, contiguous)


@functools.cache
def _linear_on_cpu(dims: int, biased: bool, contiguous: bool) -> str:
    """PyTorch is asked: the parts of `linear` depend on these three, and on its version."""
    with isolated(), torch.enable_grad():
        rows = torch.empty([2] * dims, device="cpu")
        weight, bias = torch.empty(2, 2, device="cpu", requires_grad=True), torch.empty(2, device="cpu") if biased else None
        made = torch.nn.functional.linear(rows if contiguous else rows.transpose(0, 1), weight, bias)
        return type(made.grad_fn).__name__


def _attention(made: Tensor, node: Any) -> str:
    dropout = node.kwargs.get("dropout_p", node.args[4] if len(node.args) > 4 else 0.0)
    fused = made.dim() == 4 and not dropout and 3 not in node.wanted  # the mask
    if fused:
        return "ScaledDotProductFlashAttentionForCpuBackward0"
    return "UnsafeViewBackward0" if made.dtype in (torch.float32, torch.float64) else "ToCopyBackward0"


def _recurrent(steps_first: str, batch_first: str) -> Callable[[Tensor, Any], str]:
    """The node of a recurrent operator's outputs depends on their layout (the last argument); its states are stacked."""

    def name(made: Tensor, node: Any) -> str:
        outputs = batch_first if node.args[-1] else "CatBackward0" if node.args[-2] else steps_first
        return outputs if made.output_nr == 0 else "StackBackward0"

    return name


_gru = _recurrent("StackBackward0", "TransposeBackward1")
COMPOSITES: dict[str, Callable[[Tensor, Any], str]] = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::lstm.input": _recurrent("MkldnnRnnLayerBackward0", "TransposeBackward0"),
    "aten::gru.input": _gru,
    "aten::rnn_tanh.input": _gru,
    "aten::rnn_relu.input": _gru,
    "aten::lstm_cell": lambda made, node: ("MulBackward0", "AddBackward0")[made.output_nr],
    "aten::gru_cell": lambda made, node: "AddBackward0",
    "aten::rnn_tanh_cell": lambda made, node: "TanhBackward0",
    "aten::rnn_relu_cell": lambda made, node: "ReluBackward0",
}


def _composite(made: Tensor, node: Any) -> str:
    """The node of a composite. Recurrent operators on packed data have no row: they end in a concatenation of the steps."""
    name = COMPOSITES.get(node.call.op.name())
    return "CatBackward0" if name is None else name(made, node)


NODES: dict[str, Callable[[Tensor, Any], str]] = {
    "LinearBackward0": _linear,
    "NativeDropoutBackward0": lambda made, node: "MulBackward0",
    "_CompositeBackward": _composite,
}


def renamed(made: Tensor, text: str) -> str:
    """A part of the text of a tensor with the name of its node replaced by the CPU's."""
    for kind, name in NODES.items():
        if f"grad_fn=<{kind}>" in text:
            return text.replace(f"grad_fn=<{kind}>", f"grad_fn=<{name(made, made.grad_fn)}>")
    return text
