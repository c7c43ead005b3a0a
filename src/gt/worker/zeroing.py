"""What one session freed is never what another one sees: where memory may have crossed, fresh memory begins as zeros.

All sessions of a worker live in one heap. Most operators write every byte of what they return, and those run as they are:
`fills` says which. All others run with PyTorch's own allocator filling what it hands out, however deep inside a kernel. A
worker that has had one session only never does so. docs/decisions/015-foreign-memory.md.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from gt.wire import instructions as wire

_c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
_zero_fill = ctypes.c_bool.in_dll(_c10, "FLAGS_caffe2_cpu_allocator_do_zero_fill")
"""PyTorch reads it at each allocation of CPU memory: 0.1 us to change, nothing where it rests."""


class Zeroing:
    """Whether memory may cross from session to session on this worker; as a context, fresh memory is filled with zeros."""

    __slots__ = ("calls", "device", "needed")

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.needed = False
        """This worker has had more than one session."""
        self.calls = 0
        """How often memory was filled: operations that ran so, and storages."""

    def __enter__(self) -> None:
        if self.needed:
            self.calls += 1
            _zero_fill.value = True

    def __exit__(self, *_: object) -> None:
        _zero_fill.value = False

    def allocated(self, tensor: torch.Tensor) -> None:
        """The result of an operator that only allocates, on a device whose allocator fills nothing."""
        if self.device.type != "cpu":
            self.bytes(tensor, 0)

    def bytes(self, tensor: torch.Tensor, start: int) -> None:
        """Fill the storage of `tensor` from byte `start` on."""
        storage = tensor.untyped_storage()
        if self.needed and storage.nbytes() > start:
            self.calls += 1
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)  # type: ignore[call-overload]
            whole[start:].zero_()


# -- operators that write every byte -------------------------------------------------------------------------------------

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
FILLS = frozenset(_NAMES.split())
"""What training and generation are made of, besides what PyTorch tags as pointwise: all overloads, or the one named."""
FILLING = ("_foreach_", "_fused_ada", "_fused_sgd")
"""How the names of operators over lists begin, and of optimizers."""
OTHERS = frozenset({"gt::backward"})
ALLOCATING = frozenset({"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"})
KINDS = ("float", "bfloat16", "int", "uint", "bool", "complex")
"""How the dtypes begin whose kernels were measured: no quantized ones."""


def fills(define: wire.Define) -> bool:
    """Whether a call writes every byte of its results, as tests/oracle/unwritten.py measures. Sparse tensors: not known."""
    plain = not any(_is_sparse(a) for a in (*define.args, *define.kwargs.values()))
    return plain and all(g.dtype.startswith(KINDS) for g in define.ins) and (define.op in OTHERS or _fills(define.op))


def allocates(op: str) -> bool:
    """Whether an operator writes nothing at all."""
    return op.removeprefix("aten::").partition(".")[0] in ALLOCATING


def _is_sparse(argument: wire.Arg) -> bool:
    if isinstance(argument, list):
        return any(_is_sparse(a) for a in argument)
    return isinstance(argument, wire.Sparse) or (isinstance(argument, wire.Layout) and argument.name != "strided")


@functools.cache
def _fills(name: str) -> bool:
    short = name.removeprefix("aten::")
    base, _, overload = short.partition(".")
    if base in FILLS or short in FILLS or base.startswith(FILLING):
        return True
    return torch.Tag.pointwise in getattr(getattr(torch.ops.aten, base), overload or "default").tags
