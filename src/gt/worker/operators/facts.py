"""Facts about operators that a worker needs to run their calls: which operands they write, whether they draw, and so on.

Most come from PyTorch's schemas and tags. No schema says which operators write every byte of their results: that list was
measured, and `python -m tests.oracle.unwritten` measures it again.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from gt.wire import instructions as wire
from gt.worker.geometry import dtype_of
from gt.worker.operators import graph


@functools.cache
def draws(op: Any) -> bool:
    """Whether the operator draws from a generator."""
    if not isinstance(op, torch._ops.OpOverload):
        return op is graph.backward
    return torch.Tag.nondeterministic_seeded in op.tags or any(a.name == "generator" for a in op._schema.arguments)


def drops(op: Any, define: wire.Define) -> bool:
    """Whether a call of a composite has dropout in it."""
    if not isinstance(op, torch._ops.OpOverload) or not draws(op):
        return False
    given = dict(zip((a.name for a in op._schema.arguments), define.args, strict=False)) | define.kwargs
    return bool(given.get("dropout_p") or (given.get("dropout") and given.get("train")))


def written(op: Any, args: list[wire.Arg], kwargs: dict[str, wire.Arg]) -> tuple[list[int], list[int]]:
    """Operands (by index) that the operator writes, and which of these it may resize."""
    if not isinstance(op, torch._ops.OpOverload):
        return [], []
    found: list[int] = []
    resized: list[int] = []
    for position, name, is_out in _written_arguments(op):
        value = args[position] if position < len(args) else kwargs.get(name)
        values = value if isinstance(value, list) else [value]
        found += (indices := [v.index for v in values if isinstance(v, wire.In)])
        if is_out:
            resized += indices
    return found, resized


@functools.cache
def _written_arguments(op: torch._ops.OpOverload) -> list[tuple[int, str, bool]]:
    """Position and name of each argument that the operator writes, and whether it is an `out=`."""
    given = enumerate(op._schema.arguments)
    return [(i, a.name, a.kwarg_only) for i, a in given if a.alias_info is not None and a.alias_info.is_write]


def output_mask(op: Any, args: list[wire.Arg]) -> list[Any] | None:
    """Which of its results a backward operator is asked for, one bool each; None: all."""
    if not isinstance(op, torch._ops.OpOverload):
        return None
    position = _mask_position(op)
    found = args[position] if position is not None and position < len(args) else None
    return found if isinstance(found, list) else None


@functools.cache
def _mask_position(op: torch._ops.OpOverload) -> int | None:
    return next((i for i, a in enumerate(op._schema.arguments) if a.name == "output_mask"), None)


@functools.cache
def returns_no_list(op: Any) -> bool:
    """Whether it returns tensors, one or several, and no list of which nobody knows how many there are."""
    return not isinstance(op, torch._ops.OpOverload) or all(str(r.type) != "List[Tensor]" for r in op._schema.returns)


def differentiated(define: wire.Define) -> list[bool]:
    """For each operand of a composite, whether it gets a gradient: it is wanted, and its dtype has gradients."""
    dtypes = [dtype_of(g.dtype) for g in define.ins]
    return [i in define.requires_grad and (d.is_floating_point or d.is_complex) for i, d in enumerate(dtypes)]


@functools.cache
def returns_one_tensor(op: torch._ops.OpOverload) -> bool:
    """Whether it returns a tensor, and nothing else."""
    return [str(r.type) for r in op._schema.returns] == ["Tensor"]


_NAMES = """
    _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _log_softmax _log_softmax_backward_data _safe_softmax _softmax
    _softmax_backward_data _to_copy addbmm addmm addmv all amax amin any arange argmax argmin avg_pool2d
    avg_pool2d_backward baddbmm binary_cross_entropy binary_cross_entropy_backward bmm cat constant_pad_nd convolution
    convolution_backward copy_ cumsum diag_embed dot embedding embedding_dense_backward eye fill_ flip full full_like
    gather glu glu_backward gru.input gru_cell index.Tensor index_add index_add_ index_put_ index_select
    linalg_vector_norm linear linear_backward logsumexp lstm.input lstm_cell masked_fill masked_fill_ max max.dim
    max_pool2d_with_indices max_pool2d_with_indices_backward mean mean.dim min min.dim mm mse_loss mse_loss_backward
    mv native_batch_norm native_batch_norm_backward native_dropout native_dropout_backward native_group_norm
    native_group_norm_backward native_layer_norm native_layer_norm_backward new_full new_ones new_zeros
    nll_loss2d_backward nll_loss2d_forward nll_loss_backward nll_loss_forward norm normal_ ones ones_like prod rand
    rand_like randint randint_like randn randn_like repeat roll scalar_tensor scaled_dot_product_attention scatter
    scatter_ scatter_add scatter_add_ select_backward slice_backward smooth_l1_loss smooth_l1_loss_backward sort stack
    std sum topk tril triu uniform_ upsample_bilinear2d upsample_nearest2d var zero_ zeros zeros_like
"""
FILL = frozenset(_NAMES.split())
"""The operators of training and generation, besides those tagged as pointwise: all overloads, or the one named."""
FILL_PREFIXES = ("_foreach_", "_fused_ada", "_fused_sgd")
"""Beginnings of names: operators over lists of tensors, and optimizers."""
ALLOCATE = frozenset({"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"})
MEASURED_DTYPES = ("float", "bfloat16", "int", "uint", "bool", "complex")
"""Beginnings of the names of dtypes whose kernels were measured; quantized ones were not."""


def fills(define: wire.Define) -> bool:
    """Whether a call is known to write every byte of its results. No call with a sparse tensor is."""
    plain = not any(_is_sparse(a) for a in (*define.args, *define.kwargs.values()))
    measured = all(g.dtype.startswith(MEASURED_DTYPES) for g in define.ins)
    return plain and measured and (define.op.startswith("gt::") or _fills(define.op))


def allocates(op: str) -> bool:
    """Whether the operator allocates its result and writes nothing to it."""
    return op.removeprefix("aten::").partition(".")[0] in ALLOCATE


def _is_sparse(argument: wire.Arg) -> bool:
    if isinstance(argument, list):
        return any(_is_sparse(a) for a in argument)
    return isinstance(argument, wire.Sparse) or (isinstance(argument, wire.Layout) and argument.name != "strided")


@functools.cache
def _fills(name: str) -> bool:
    short = name.removeprefix("aten::")
    base, _, overload = short.partition(".")
    if base in FILL or short in FILL or base.startswith(FILL_PREFIXES):
        return True
    return torch.Tag.pointwise in getattr(getattr(torch.ops.aten, base), overload or "default").tags
