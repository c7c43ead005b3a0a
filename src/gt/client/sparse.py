"""Tensors of sparse layouts on the device: PyTorch's own containers around remote tensors, their parts.

Workers keep dense tensors only. For a call they put the operands together from their parts, run PyTorch's kernel for sparse
ones, and answer with the parts of what comes out, which only they can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gt.client import calls, record
from gt.client.calls import OpOverload
from gt.client.operators import overload

Tensor = torch.Tensor
aten = torch.ops.aten
LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def _keys(name: str) -> Any:
    return torch._C.DispatchKeySet(torch._C._dispatch_key_parse(name))


COO, COMPRESSED = _keys("SparseMeta"), _keys("SparseCsrMeta")
"""PyTorch's kernels that handle a container and never look at elements."""


def parts_of(tensor: Tensor) -> tuple[Tensor, ...]:
    """Indices [sparse dims, n] and values [n, dense sizes]; of a compressed layout, its two lists of indices and values."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def put_together(layout: torch.layout, parts: Sequence[Tensor], size: Sequence[int], coalesced: bool = False) -> Tensor:
    """The sparse tensor of these parts, which it holds and does not copy."""
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
    """An argument as it travels: a sparse tensor as its parts, in lists too."""
    if isinstance(value, Tensor) and value.layout in LAYOUTS:
        coalesced = value.layout is torch.sparse_coo and value.is_coalesced()
        return calls.SparseOperand(value.layout, parts_of(value), tuple(value.shape), coalesced)
    return [apart(v) for v in value] if isinstance(value, (list, tuple)) else value


def become(tensor: Tensor, result: Tensor) -> Tensor:
    """Let the caller's own tensor hold a result."""
    record.set_data(tensor, result)
    return tensor


def _container(op: OpOverload, keys: Any) -> Callable[..., Any]:
    redispatch = op.redispatch
    return lambda *args, **kwargs: redispatch(keys, *args, **kwargs)


CONTAINED = {
    "Sparse": (COO, """_sparse_coo_tensor_with_dims _sparse_coo_tensor_with_dims_and_tensors _indices _values indices values
        _nnz is_coalesced _coalesced_ sparse_dim dense_dim empty.memory_format sparse_resize_ sparse_resize_and_clear_"""),
    "SparseCsr": (COMPRESSED, """crow_indices col_indices ccol_indices row_indices values _nnz sparse_dim dense_dim
        empty.memory_format resize_ resize_as_sparse_"""),
}  # fmt: skip
"""Overloads without `aten::` whose kernel of containers serves here, for each kind of container."""


def kernels(kind: str, ask: Callable[[OpOverload], Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Overload name without `aten::` -> kernel, for every overload that a CPU has for this kind of container.

    `ask` makes a kernel that asks the worker.
    """
    keys, contained = CONTAINED[kind]
    names = (n.removeprefix("aten::") for n in torch._C._dispatch_get_all_op_names() if n.startswith("aten::"))
    found = {
        name: ask(overload(name))
        for name in names
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", f"{kind}CPU")
    }
    found |= {name: _container(overload(name), keys) for name in contained.split()}
    return found | {"copy_": _copying(found["copy_"]), "is_pinned": lambda self, device=None: False}


def _copying(on_worker: Callable[..., Any]) -> Callable[..., Any]:
    """`copy_`: on one device the worker's, between two by the parts."""

    def copy_(self: Tensor, src: Tensor, non_blocking: bool = False) -> Any:
        if self.device.type == src.device.type:
            return on_worker(self, src)
        if self.layout is not src.layout:
            raise RuntimeError(f"a copy between devices takes tensors of one layout, but got {self.layout} and {src.layout}")
        *indices, values = [part.to(self.device, copy=True) for part in parts_of(src)]
        made = put_together(src.layout, [*indices, values.to(self.dtype)], src.shape, apart(src).coalesced)
        return become(self, made) if self.device.type == "remote" else self.copy_(made)

    return copy_
