"""The op table: which of PyTorch's operators a wire string may name.

It holds what clients send. Views are made by clients, as geometries that `memory` checks against the storage, and composite
operators are decomposed there by PyTorch; so workers accept neither, except for the few composites that travel as one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gt.worker.operators import graph, kernels

GT_OPS: dict[str, Callable[..., Any]] = {"gt::backward": graph.backward, "gt::random_state": graph.random_state}
COMPOSITES = {
    f"aten::{name}"
    for name in (
        "linear", "one_hot", "scaled_dot_product_attention", "lstm.input", "lstm.data", "gru.input", "gru.data",
        "rnn_tanh.input", "rnn_tanh.data", "rnn_relu.input", "rnn_relu.data", "lstm_cell", "gru_cell", "rnn_tanh_cell",
        "rnn_relu_cell",
    )
}  # fmt: skip
"""Composites, which PyTorch decomposes on every device, that clients send as one instruction."""
REFUSED = {
    f"aten::{name}"
    for name in (
        # reach beyond a session's own tensors: files, pages, streams, the process
        "from_file", "_pin_memory", "pin_memory", "is_pinned", "record_stream", "_print", "get_gradients", "set",
        # views that their schema does not declare, and changes of geometry in place
        "_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", "lift", "as_strided_", "resize_", "resize_as_",
        "squeeze_", "t_", "transpose_", "unsqueeze_",
        # make tensors of another kind, without memory, or of unchecked parts
        "_copy_from", "_copy_from_and_resize", "_efficientzerotensor", "_local_scalar_dense", "empty_quantized", "int_repr",
        "_sparse_coo_tensor_with_dims", "_sparse_coo_tensor_with_dims_and_tensors", "resize_as_sparse_", "sparse_resize_",
        "sparse_resize_and_clear_", "to_padded_tensor",
        # parts of composites that are sent as one; their kernels check nothing
        "_convert_indices_from_coo_to_csr", "_convert_indices_from_csr_to_coo", "_embedding_bag_dense_backward",
        "_embedding_bag_sparse_backward", "_nnpack_spatial_convolution", "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward", "_transform_bias_rescale_qkv", "batch_norm_update_stats",
    )
}  # fmt: skip
"""Operators, all overloads, that no client sends for a program that uses only PyTorch's documented functions."""
REFUSED_PREFIXES = tuple(
    f"aten::{name}"
    for name in (
        "set_", "_share", "_nested", "quantize_per", "quantized_", "to_mkldnn", "mkldnn", "_mkldnn", "_cuda", "_cudnn_init",
        "_cufft", "cudnn_", "miopen_", "_miopen", "_cslt", "_slow_conv", "slow_conv", "_weight_int", "_dyn_quant",
    )
)  # fmt: skip
ALLOWED = {"aten::_nested_tensor_from_mask_left_aligned"}
"""Exceptions from the prefixes: this one tells whether a mask is a padding mask."""


def find(name: str, device: torch.device) -> Any:
    """The callable of an operator (`aten::name.overload`) on `device`. Raises NotImplementedError outside the table."""
    return _find(name, device.type)


@functools.cache
def _find(name: str, device: str) -> Any:
    if name in GT_OPS:
        return GT_OPS[name]
    if name in kernels.EVERYWHERE:
        return kernels.EVERYWHERE[name]
    if device == "cpu" and name in kernels.CPU:
        return kernels.CPU[name]
    if not name.startswith("aten::") or name not in _names():
        raise NotImplementedError(f"{name} is not an operator of GT's workers")
    if name.partition(".")[0] in REFUSED or (name.startswith(REFUSED_PREFIXES) and name not in ALLOWED):
        raise NotImplementedError(f"{name} is refused: it reaches beyond a session's own tensors")
    base, _, overload = name.removeprefix("aten::").partition(".")
    op = getattr(getattr(torch.ops.aten, base), overload or "default")
    if name not in COMPOSITES and not _is_sent(name, op, device.upper()):
        raise NotImplementedError(f"{name} is not an operator of GT's workers: clients send others in its place")
    return op


@functools.cache
def _names() -> frozenset[str]:
    return frozenset(torch._C._dispatch_get_all_op_names())


def _is_sent(name: str, op: torch._ops.OpOverload, key: str) -> bool:
    """Whether clients send it: no view and no composite, but whatever the device (`key`) has a sparse kernel for."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if has(name, f"Sparse{key}") or has(name, f"SparseCsr{key}"):
        return True
    composite = has(name, "CompositeImplicitAutograd") and not has(name, key)
    return not composite and not _is_view(op)


def _is_view(op: torch._ops.OpOverload) -> bool:
    """Whether results alias operands that are not written."""
    writes = any(a.alias_info is not None and a.alias_info.is_write for a in op._schema.arguments)
    return not writes and any(r.alias_info is not None for r in op._schema.returns)
