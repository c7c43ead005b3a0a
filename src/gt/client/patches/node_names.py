"""Names of autograd nodes: where a remote tensor has another node than a CPU's, `grad_fn=<...>` prints the CPU's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor
FEW_DIMS = {
    (1, True): "ViewBackward0",
    (1, False): "SqueezeBackward4",
    (2, True): "AddmmBackward0",
    (2, False): "MmBackward0",
}
"""The node of the last part of `linear`, by the result's dims and whether there is a bias."""


def _linear(made: Tensor, node: Any) -> str:
    biased = node.next_functions[2][0] is not None
    if made.dim() < 3:
        return FEW_DIMS[made.dim(), biased]
    if not biased:
        return "UnsafeViewBackward0"
    try:
        return "ViewBackward0" if node._saved_input.is_contiguous() else "AddBackward0"
    except RuntimeError:  # freed by a backward pass
        return "ViewBackward0"


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
    """The text of a tensor with the name of its node replaced by the CPU's."""
    for kind, name in NODES.items():
        if f"grad_fn=<{kind}>" in text:
            return text.replace(f"grad_fn=<{kind}>", f"grad_fn=<{name(made, made.grad_fn)}>")
    return text
