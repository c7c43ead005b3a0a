"""The kernels of sparse tensors: queries, and PyTorch's own for what concerns the containers alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gt.client.calls.schemas import OpOverload, overload
from gt.client.calls.sparse_parts import COMPRESSED, COO, apart, become, parts_of, put_together

Tensor = torch.Tensor
aten = torch.ops.aten


def _container(op: OpOverload, keys: Any) -> Callable[..., Any]:
    redispatch = op.redispatch
    return lambda *args, **kwargs: redispatch(keys, *args, **kwargs)


CONTAINED = {
    "Sparse": (COO, """_sparse_coo_tensor_with_dims _sparse_coo_tensor_with_dims_and_tensors _indices _values indices values
        _nnz is_coalesced _coalesced_ sparse_dim dense_dim empty.memory_format sparse_resize_ sparse_resize_and_clear_"""),
    "SparseCsr": (COMPRESSED, """crow_indices col_indices ccol_indices row_indices values _nnz sparse_dim dense_dim
        empty.memory_format resize_ resize_as_sparse_"""),
}  # fmt: skip
"""For each kind of container, the overloads whose PyTorch kernel for containers serves here."""


def kernels(kind: str, ask: Callable[[OpOverload], Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Overload name without `aten::` -> kernel, for every overload that a CPU has for this kind of container.

    `ask` makes a kernel that queries the worker.
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
    """`copy_`: a query on one device, by the parts between two."""

    def copy_(self: Tensor, src: Tensor, non_blocking: bool = False) -> Any:
        if self.device.type == src.device.type:
            return on_worker(self, src)
        if self.layout is not src.layout:
            raise RuntimeError(f"a copy between devices takes tensors of one layout, but got {self.layout} and {src.layout}")
        *indices, values = [part.to(self.device, copy=True) for part in parts_of(src)]
        made = put_together(src.layout, [*indices, values.to(self.dtype)], src.shape, apart(src).coalesced)
        return become(self, made) if self.device.type == "remote" else self.copy_(made)

    return copy_
