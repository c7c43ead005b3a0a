"""Sparse COO tensors on the device: PyTorch's own container around two remote tensors, indices [sparse dims, n] and
values [n, dense sizes]. Workers know dense tensors only, so that each operator here is made of dense ones."""

from __future__ import annotations

import math
from typing import Any

import torch

from gt.client import geometry, record
from gt.client.calls import OpOverload
from gt.client.kernels import Kernel, kernel

Tensor = torch.Tensor
aten = torch.ops.aten
CONTAINER = torch._C.DispatchKeySet(torch._C._dispatch_key_parse("SparseMeta"))
"""PyTorch's kernels that handle the container and never look at elements."""


def coo(indices: Tensor, values: Tensor, size: Any, coalesced: bool) -> Tensor:
    return aten._sparse_coo_tensor_with_dims_and_tensors.default.redispatch(  # type: ignore[no-any-return]
        CONTAINER,
        indices.shape[0],
        values.dim() - 1,
        size,
        indices,
        values,
        dtype=values.dtype,
        layout=torch.sparse_coo,
        device=values.device,
        is_coalesced=coalesced,
    )


def _with_values(self: Tensor, values: Tensor) -> Tensor:
    return coo(self._indices(), values, self.shape, self.is_coalesced())


def _rows(self: Tensor) -> Tensor:
    """Where each value belongs if the sparse dims were one: int64 [n]."""
    strides = geometry.contiguous_stride(self.shape[: self.sparse_dim()])
    rows = torch.zeros(self._nnz(), dtype=torch.int64, device=self.device)
    for index, stride in zip(self._indices().unbind(), strides, strict=True):
        rows = rows + index * stride
    return rows


def _added_up(rows: Tensor, values: Tensor, count: int) -> Tensor:
    """Values [n, ...] added into [count, ...] at their rows."""
    out = torch.zeros((count, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return out.index_add_(0, rows, values)


def coalesce(self: Tensor) -> Tensor:
    kept, rows = torch.unique(_rows(self), return_inverse=True)
    sizes = self.shape[: self.sparse_dim()]
    strides = geometry.contiguous_stride(sizes)
    index = [kept.div(stride, rounding_mode="floor") % n for n, stride in zip(sizes, strides, strict=True)]
    indices = torch.stack(index) if index else self._indices()[:, : len(kept)]
    return coo(indices, _added_up(rows, self._values(), len(kept)), self.shape, True)


def to_dense(self: Tensor, dtype: torch.dtype | None = None, masked_grad: bool | None = None) -> Tensor:
    count = math.prod(self.shape[: self.sparse_dim()])
    return _added_up(_rows(self), self._values(), count).view(self.shape).to(dtype or self.dtype)


def to_sparse(
    self: Tensor, *, layout: torch.layout | None = None, blocksize: Any = None, dense_dim: int | None = None
) -> Tensor:
    if layout not in (None, torch.sparse_coo) or blocksize is not None:
        raise NotImplementedError(f"a remote tensor can become torch.sparse_coo, not {layout}. Move it to the CPU first")
    return to_sparse_dim(self, self.dim() - (dense_dim or 0))


def to_sparse_dim(self: Tensor, sparse_dim: int) -> Tensor:
    kept = self != 0
    found = (kept.flatten(sparse_dim).any(-1) if sparse_dim < self.dim() else kept).nonzero()
    values = self[tuple(found.unbind(1))] if sparse_dim else self.expand(len(found), *self.shape).clone()
    return coo(found.t().contiguous(), values, self.shape, True)


def sparse_mask(self: Tensor, mask: Tensor) -> Tensor:
    """The elements of a tensor where another has elements: one for each index, were it there twice."""
    dense = self.to_dense() if self.layout is torch.sparse_coo else self
    return _with_values(mask, dense[tuple(mask._indices().unbind())])


_bag_backward = kernel(aten._embedding_bag_backward.default)


def embedding_bag_backward(
    grad: Tensor, indices: Tensor, offsets: Tensor, bags: Tensor, sizes: Tensor, maxima: Tensor, *options: Any
) -> Tensor:
    """`options`: count of weights, scale_grad_by_freq, mode, sparse, per_sample_weights, padding_idx."""
    count, scaled, mode, sparse, *rest = options
    if not sparse:
        return _bag_backward(grad, indices, offsets, bags, sizes, maxima, *options)  # type: ignore[no-any-return]
    if not bags.numel():  # a CPU's fast way leaves out the bag of each index
        starts = torch.zeros(len(indices) + 1, dtype=torch.int64, device=indices.device)
        bags = starts.index_add_(0, offsets.long(), torch.ones_like(offsets, dtype=torch.int64))[:-1].cumsum(0) - 1
    return aten._embedding_bag_sparse_backward.default(  # type: ignore[no-any-return]
        grad, indices, offsets, bags, sizes, count, scaled, mode, *rest
    )


# -- arithmetic ----------------------------------------------------------------------------------------------------------


def add(self: Tensor, other: Tensor, *, alpha: Any = 1) -> Tensor:
    if self.layout is torch.strided:
        return add_(self.to(torch.result_type(self, other), copy=True), other, alpha=alpha)
    if other.layout is torch.strided:
        raise NotImplementedError("add(sparse, dense) is not supported. Use add(dense, sparse) instead.")
    if self.shape != other.shape or self.sparse_dim() != other.sparse_dim():
        raise RuntimeError(f"add: expected sizes {list(self.shape)} in as many sparse dims, but got {list(other.shape)}")
    dtype = torch.result_type(self, other)
    values = torch.cat([self._values().to(dtype), (other._values() * alpha).to(dtype)])
    both = coo(torch.cat([self._indices(), other._indices()], 1), values, self.shape, False)
    return both.coalesce() if self.is_coalesced() and other.is_coalesced() else both


def add_(self: Tensor, other: Tensor, *, alpha: Any = 1) -> Tensor:
    if self.layout is torch.sparse_coo:
        return _become(self, add(self, other, alpha=alpha))
    _castable(torch.result_type(self, other), self.dtype)
    if self.shape != other.shape:
        raise RuntimeError(f"add: expected the sparse tensor's size to be {list(self.shape)}, but got {list(other.shape)}")
    if not other.sparse_dim():
        return self.add_(other.to_dense(), alpha=alpha)
    if other.sparse_dim() == 1:  # by one multiply-add for each value, as on a CPU
        return self.index_add_(0, other._indices()[0], other._values().to(self.dtype), alpha=alpha)
    values = other._values() if alpha == 1 else other._values() * alpha
    return self.index_put_(tuple(other._indices().unbind()), values.to(self.dtype), accumulate=True)


def _scaled(op: OpOverload) -> Kernel:
    """Multiply or divide by a number: of a sparse tensor, its values."""

    def run(self: Tensor, other: Any) -> Tensor:
        sparse = [t for t in (self, other) if isinstance(t, Tensor) and t.layout is not torch.strided]
        if sparse[0] is not self or len(sparse) > 1 or (isinstance(other, Tensor) and other.dim()):
            raise NotImplementedError(f"{op.name()} of a sparse remote tensor takes a number. Use `to_dense()`")
        return _with_values(self, op(self._values(), other))

    return run


def _in_place(kernel: Kernel) -> Kernel:
    return lambda self, *args: _become(self, kernel(self, *args))


def _become(self: Tensor, result: Tensor) -> Tensor:
    """Let the caller's own tensor hold a result."""
    _castable(result.dtype, self.dtype)
    record.set_data(self, result.to(self.dtype))
    return self


def _castable(found: torch.dtype, wanted: torch.dtype) -> None:
    if not torch.can_cast(found, wanted):
        raise RuntimeError(f"result type {found} can't be cast to the desired output type {wanted}")


# -- copies --------------------------------------------------------------------------------------------------------------


def copy_(self: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    if self.layout is not src.layout:
        raise NotImplementedError("copy between a dense and a sparse remote tensor: use `to_dense()` or `to_sparse()`")
    indices, values = src._indices().to(self.device), src._values().to(self.device, self.dtype, copy=True)
    if self.device.type != "remote":
        return self.copy_(torch.sparse_coo_tensor(indices, values, src.shape, is_coalesced=src.is_coalesced()))
    record.set_data(self, coo(indices, values, src.shape, src.is_coalesced()))
    return self


def clone(self: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor:
    return coo(self._indices().clone(), self._values().clone(), self.shape, self.is_coalesced())


def zero_(self: Tensor) -> Tensor:
    record.set_data(self, coo(self._indices()[:, :0], self._values()[:0], self.shape, True))
    return self


def _container(op: OpOverload) -> Kernel:
    redispatch = op.redispatch
    return lambda *args, **kwargs: redispatch(CONTAINER, *args, **kwargs)


CONTAINED = (
    "_sparse_coo_tensor_with_dims", "_sparse_coo_tensor_with_dims_and_tensors", "_indices", "_values", "indices", "values",
    "_nnz", "is_coalesced", "_coalesced_", "sparse_dim", "dense_dim", "empty.memory_format", "sparse_resize_",
    "sparse_resize_and_clear_",
)  # fmt: skip
KERNELS: dict[str, Kernel] = {
    "_coalesce": coalesce,
    "_to_dense": to_dense,
    "sparse_mask": sparse_mask,
    "add.Tensor": add,
    "add_.Tensor": add_,
    "neg": lambda self: _with_values(self, -self._values()),
    "copy_": copy_,
    "clone": clone,
    "zero_": zero_,
}
"""Overload name without `aten::` -> kernel, where an operand is sparse. Anything else is refused."""
for _op in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar):
    _base, _, _overload = _op.name().removeprefix("aten::").partition(".")
    KERNELS |= {f"{_base}.{_overload}": _scaled(_op), f"{_base}_.{_overload}": _in_place(_scaled(_op))}
for _name in CONTAINED:
    _base, _, _overload = _name.partition(".")
    KERNELS[_name] = _container(getattr(getattr(aten, _base), _overload or "default"))
FROM_DENSE: dict[str, Kernel] = {
    "_to_sparse": to_sparse,
    "_to_sparse.sparse_dim": to_sparse_dim,
    "_embedding_bag_backward": embedding_bag_backward,
}
"""Kernels whose operands are dense and whose results may be sparse."""
