"""Sparse tensors and their parts: PyTorch's own container around dense remote tensors.

Workers keep dense tensors only. For a call they build the sparse operands from their parts, run PyTorch's sparse kernel,
and answer with the parts of the results, which only they know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gt.client.calls import templates
from gt.client.stream import operands

Tensor = torch.Tensor
aten = torch.ops.aten
LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def _keys(name: str) -> Any:
    return torch._C.DispatchKeySet(torch._C._dispatch_key_parse(name))


COO, COMPRESSED = _keys("SparseMeta"), _keys("SparseCsrMeta")
"""PyTorch's kernels that handle a container and never look at elements."""


def parts_of(tensor: Tensor) -> tuple[Tensor, ...]:
    """Indices [sparse dims, n] and values [n, dense sizes]; for a compressed layout, its two lists of indices and the
    values."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def put_together(layout: torch.layout, parts: Sequence[Tensor], size: Sequence[int], coalesced: bool = False) -> Tensor:
    """A sparse tensor of these parts, which are not copied."""
    options = {"dtype": parts[-1].dtype, "layout": layout, "device": parts[-1].device}
    if layout is not torch.sparse_coo:
        return aten._sparse_compressed_tensor_unsafe.default(*parts, size, **options)  # type: ignore[no-any-return]
    indices, values = parts
    dims = indices.shape[0], values.dim() - 1
    if values.device.type == "remote":
        make = aten._sparse_coo_tensor_with_dims_and_tensors.default.redispatch
        return make(COO, *dims, size, indices, values, is_coalesced=coalesced, **options)  # type: ignore[no-any-return]
    return torch.sparse_coo_tensor(indices, values, tuple(size), is_coalesced=coalesced, check_invariants=False)


def apart(value: Any) -> Any:
    """An argument as it travels: sparse tensors (also in lists) are replaced by their parts."""
    if isinstance(value, Tensor) and value.layout in LAYOUTS:
        coalesced = value.layout is torch.sparse_coo and value.is_coalesced()
        return templates.SparseOperand(value.layout, parts_of(value), tuple(value.shape), coalesced)
    return [apart(v) for v in value] if isinstance(value, (list, tuple)) else value


def become(tensor: Tensor, result: Tensor) -> Tensor:
    """Make the caller's own tensor hold a result."""
    operands.set_data(tensor, result)
    return tensor
