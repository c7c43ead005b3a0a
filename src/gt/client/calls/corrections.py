"""Corrections of inference: one row per operator whose meta kernel and whose kernel on a worker disagree.

Meta kernels answer as an accelerator does; most rows are for workers that are CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from gt.client.calls import numbers
from gt.client.calls.schemas import overload
from gt.client.session.process import process

aten = torch.ops.aten
Infer = Callable[..., Any]
SHORT = (torch.float16, torch.bfloat16)


def _norm(op: Infer, trains: bool | None = None) -> Infer:
    """The saved statistics (second and third result) have the input's dtype, or float32 if a parameter has it; they are
    empty if nothing is trained (`trains` None: the sixth argument says)."""

    def infer(*args: Any, **kwargs: Any) -> Any:
        out, mean, deviation, *rest = op(*args, **kwargs)
        dtypes = [a.dtype for a in args if isinstance(a, torch.Tensor)]
        dtype = torch.float32 if dtypes[0] in SHORT and torch.float32 in dtypes else dtypes[0]
        kept = [
            s.to(dtype) if (bool(args[5]) if trains is None else trains) else args[0].new_empty(0, dtype=dtype)
            for s in (mean, deviation)
        ]
        return (out, *kept, *rest)

    return infer


def _batch_norm(op: Infer, trains: bool | None = None) -> Infer:
    """As `_norm`; the result is contiguous, or channels-last if the input is."""
    norm = _norm(op, trains)

    def infer(input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        out, *kept = norm(input, *args, **kwargs)
        return _as_suggested(out, input), *kept

    return infer


def _as_suggested(out: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """An empty tensor like `out`: contiguous, or channels-last if the input is."""
    return torch.empty_like(out, memory_format=suggest_memory_format(input))


def _batch_norm_backward(op: Infer) -> Infer:
    def infer(grad: torch.Tensor, input: torch.Tensor, *args: Any) -> Any:
        d_input, *rest = op(grad, input, *args)
        return d_input if d_input is None else _as_suggested(d_input, input), *rest

    return infer


def _group_norm_backward(grad: torch.Tensor, input: torch.Tensor, *args: Any) -> Any:
    """The input's gradient has its dtype, and its layout as in `_batch_norm`; those of weight and bias have the weight's."""
    found = aten.native_group_norm_backward.default(grad, input, *args)
    weight = args[2]
    kept = input.dtype if weight is None else weight.dtype
    d_input, *rest = (g if g is None else g.to(dtype) for g, dtype in zip(found, (input.dtype, kept, kept), strict=True))
    return d_input if d_input is None else _as_suggested(d_input, input), *rest


def _loss_of_one_row(*args: Any) -> Any:
    """The loss of a single row [classes] is a scalar on a CPU, reduced or not."""
    loss, is_target = aten.multilabel_margin_loss_forward.default(*args)
    return (loss if args[1].dim() > 1 else loss.new_empty(())), is_target


def _of_input(op: Infer) -> Infer:
    """The gradient of a loss has the input's dtype, whatever the target's."""
    return lambda grad, input, *args: op(grad, input, *args).to(input.dtype)


def _linear_backward(input: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, mask: list[bool]) -> Any:
    """Only the gradients asked for, column-major where the CPU's products are."""
    columns = input.dim() == 2 and not input.is_contiguous() and input.t().is_contiguous()
    d_input = _by_columns(grad, input) if columns else grad.new_empty(input.shape)
    d_weight = grad.new_empty(weight.shape) if weight.is_contiguous() else _by_columns(grad, weight)
    bias = grad.new_empty(weight.shape[:-1]) if mask[2] else None
    return d_input if mask[0] else None, d_weight if mask[1] else None, bias


def _by_columns(grad: torch.Tensor, operand: torch.Tensor) -> torch.Tensor:
    return grad.new_empty(operand.shape[::-1]).t()


def _index_put(op: Infer) -> Infer:
    """Values that do not fit the selected elements are refused at once, unless their number depends on a mask."""

    def infer(self: torch.Tensor, indices: list[torch.Tensor | None], values: torch.Tensor, *rest: Any) -> Any:
        if not any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
            values.expand(aten.index.Tensor(self, indices).shape)
        return op(self, indices, values, *rest)

    return infer


def _scatter(part: Infer) -> Callable[[Infer], Infer]:
    """The part that is written must exist and have the source's size."""

    def row(op: Infer) -> Infer:
        def infer(self: torch.Tensor, src: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if part(self, *args, **kwargs).shape != src.shape:
                raise RuntimeError("another size")
            return op(self, src, *args, **kwargs)

        return infer

    return row


def _attention(*args: Any, **kwargs: Any) -> Any:
    """The weights (requested by the eleventh argument) are None if they are not wanted."""
    out, weights = aten._native_multi_head_attention.default(*args, **kwargs)
    return out, weights if kwargs.get("need_weights", args[10] if len(args) > 10 else True) else None


def _bag_backward(*args: Any) -> Any:
    """A sparse gradient (requested by the tenth argument) has a number of elements that only the worker knows."""
    if args[9]:
        raise NotImplementedError("a sparse gradient")
    return aten._embedding_bag_backward.default(*args)


def _laid_out_as(*positions: int) -> Callable[[Infer], Infer]:
    """The result is channels-last if one of these operands [n, channels, (depth,) height, width] is."""

    def row(op: Infer) -> Infer:
        def infer(*args: Any) -> Any:
            out = op(*args)
            formats = {suggest_memory_format(args[p]) for p in positions} - {torch.contiguous_format}
            return torch.empty_like(out, memory_format=formats.pop()) if formats else out

        return infer

    return row


def _last_by_columns(op: Infer) -> Infer:
    """The last result, matrices [..., n, m], is column-major, as LAPACK makes it."""

    def infer(*args: Any, **kwargs: Any) -> Any:
        *found, last = op(*args, **kwargs)
        return *found, last.new_empty(last.mT.shape).mT

    return infer


def _as_a_sum(op: Infer) -> Infer:
    """The result has the strides of the sum of its operands; PyTorch's inference follows the first one that has all dims."""

    def infer(*args: Any, **kwargs: Any) -> Any:
        out = op(*args, **kwargs)
        one, other = (a for a in args if isinstance(a, torch.Tensor))
        return torch.empty_strided(out.shape, (one + other).stride(), dtype=out.dtype, device="meta")

    return infer


def _contiguous(op: Infer) -> Infer:
    """The first result is contiguous, whatever the operands' strides."""

    def infer(*args: Any, **kwargs: Any) -> Any:
        found = op(*args, **kwargs)
        return (found[0].contiguous(), *found[1:]) if isinstance(found, tuple) else found.contiguous()

    return infer


def _real_to_complex(self: torch.Tensor, dim: list[int], *args: Any) -> Any:
    return _transformed(aten._fft_r2c.default(self, dim, *args), self, [*_by_stride(self, dim[:-1]), dim[-1]])


def _complex_to_complex(self: torch.Tensor, dim: list[int], *args: Any) -> Any:
    out = aten._fft_c2c.default(self, dim, *args)
    return _transformed(out, self, _by_stride(self, dim)) if dim else out


def _complex_to_real(self: torch.Tensor, dim: list[int], normalization: int, last: int) -> Any:
    """All dims but the last are transformed to complex numbers first; the result has the strides of that."""
    out = aten._fft_c2r.default(self, dim, normalization, last)
    between = _complex_to_complex(self, dim[:-1], normalization, False) if len(dim) > 1 else self
    return _transformed(out, between, dim[-1:])


def _transformed(out: torch.Tensor, self: torch.Tensor, dim: list[int]) -> torch.Tensor:
    """With the strides that PyTorch's MKL code gives: the other dims first, by stride, then the transformed ones in order.

    See `_exec_fft` in ATen/native/mkl/SpectralOps.cpp, whose `std::partition` fills the places of these dims from the end.
    """
    if not torch.backends.mkl.is_available():
        return out.new_empty(out.shape)
    others = self.dim() - len(dim)
    after = [d for d in range(others, self.dim()) if d not in dim]
    order = [*_by_stride(self, [after.pop() if d in dim else d for d in range(others)]), *dim]
    made = out.new_empty([out.size(d) for d in order])
    return made.permute([order.index(d) for d in range(self.dim())])


def _by_stride(self: torch.Tensor, dims: list[int]) -> list[int]:
    """The dims, largest stride first."""
    strides = self.resolve_conj().stride()
    return sorted(dims, key=lambda d: -strides[d])


EVERYWHERE: dict[str, Infer] = {
    **numbers.ROWS,
    "aten::linear_backward": _linear_backward,
    "aten::index_put": _index_put(aten.index_put.default),
    "aten::index_put_": _index_put(aten.index_put_.default),
    "aten::_index_put_impl_": _index_put(aten._index_put_impl_.default),
    "aten::select_scatter": _scatter(aten.select.int)(aten.select_scatter.default),
    "aten::slice_scatter": _scatter(aten.slice.Tensor)(aten.slice_scatter.default),
    "aten::diagonal_scatter": _scatter(aten.diagonal.default)(aten.diagonal_scatter.default),
    "aten::_native_multi_head_attention": _attention,
    "aten::_embedding_bag_backward": _bag_backward,
}
CPU: dict[str, Infer] = {
    "aten::convolution": _laid_out_as(0, 1)(aten.convolution.default),
    "aten::reflection_pad2d": _laid_out_as(0)(aten.reflection_pad2d.default),
    "aten::reflection_pad2d_backward": _laid_out_as(1)(aten.reflection_pad2d_backward.default),
    "aten::replication_pad2d": _laid_out_as(0)(aten.replication_pad2d.default),
    "aten::replication_pad2d_backward": _laid_out_as(1)(aten.replication_pad2d_backward.default),
    "aten::reflection_pad3d": _laid_out_as(0)(aten.reflection_pad3d.default),
    "aten::reflection_pad3d_backward": _laid_out_as(1)(aten.reflection_pad3d_backward.default),
    "aten::replication_pad3d": _laid_out_as(0)(aten.replication_pad3d.default),
    "aten::replication_pad3d_backward": _laid_out_as(1)(aten.replication_pad3d_backward.default),
    "aten::max_unpool2d": _laid_out_as(0)(aten.max_unpool2d.default),
    "aten::pixel_shuffle": _laid_out_as(0)(aten.pixel_shuffle.default),
    "aten::channel_shuffle": _laid_out_as(0)(aten.channel_shuffle.default),
    "aten::roll": _laid_out_as(0)(aten.roll.default),
    "aten::pow.Scalar": _contiguous(aten.pow.Scalar),
    "aten::nll_loss2d_forward": _contiguous(aten.nll_loss2d_forward.default),
    "aten::normal.Tensor_Tensor": _contiguous(aten.normal.Tensor_Tensor),
    "aten::normal.Tensor_float": _contiguous(aten.normal.Tensor_float),
    "aten::normal.float_Tensor": _contiguous(aten.normal.float_Tensor),
    "aten::native_dropout_backward": lambda grad, mask, scale: grad * mask.to(grad.dtype),
    "aten::_log_softmax_backward_data": _contiguous(aten._log_softmax_backward_data.default),
    "aten::glu_backward": _contiguous(aten.glu_backward.default),
    "aten::log_sigmoid_forward": _contiguous(aten.log_sigmoid_forward.default),
    "aten::poisson": _contiguous(aten.poisson.default),
    "aten::_standard_gamma": _contiguous(aten._standard_gamma.default),
    "aten::isin.Tensor_Tensor": _contiguous(aten.isin.Tensor_Tensor),
    "aten::_fft_r2c": _real_to_complex,
    "aten::_fft_c2c": _complex_to_complex,
    "aten::_fft_c2r": _complex_to_real,
    "aten::_linalg_svd": _last_by_columns(aten._linalg_svd.default),
    "aten::linalg_eig": _last_by_columns(aten.linalg_eig.default),
    "aten::multilabel_margin_loss_forward": _loss_of_one_row,
    "aten::native_layer_norm": _norm(aten.native_layer_norm.default, True),
    "aten::native_group_norm": _batch_norm(aten.native_group_norm.default, True),
    "aten::mse_loss_backward": _contiguous(_of_input(aten.mse_loss_backward.default)),
    "aten::smooth_l1_loss_backward": _contiguous(_of_input(aten.smooth_l1_loss_backward.default)),
    "aten::huber_loss_backward": _contiguous(aten.huber_loss_backward.default),
    "aten::binary_cross_entropy_backward": lambda grad, input, *args: torch.empty_like(input),
    "aten::native_group_norm_backward": _group_norm_backward,
    "aten::native_batch_norm_backward": _batch_norm_backward(aten.native_batch_norm_backward.default),
    "aten::batch_norm_backward": _batch_norm_backward(aten.batch_norm_backward.default),
    "aten::native_batch_norm": _batch_norm(aten.native_batch_norm.default),
    "aten::_native_batch_norm_legit": _batch_norm(aten._native_batch_norm_legit.default),
    "aten::_native_batch_norm_legit_functional": _batch_norm(aten._native_batch_norm_legit_functional.default),
    "aten::_native_batch_norm_legit.no_stats": _batch_norm(aten._native_batch_norm_legit.no_stats, True),
    "aten::_native_batch_norm_legit_no_training": _batch_norm(aten._native_batch_norm_legit_no_training.default, False),
    "aten::_batch_norm_with_update": _batch_norm(aten._batch_norm_with_update.default, True),
    "aten::_batch_norm_with_update_functional": _batch_norm(aten._batch_norm_with_update_functional.default, True),
    "aten::_batch_norm_no_update": _batch_norm(aten._batch_norm_no_update.default, False),
}

_SUMS = (
    "copysign.Tensor", "div.Tensor_mode", "floor_divide", "heaviside", "logaddexp", "logaddexp2", "logical_and",
    "logical_or", "logical_xor", "logit_backward", "hardswish_backward", "hardsigmoid_backward", "xlogy.Tensor",
    "special_xlog1py", "elu_backward", "softplus_backward", "hardtanh_backward",
)  # fmt: skip
for _name in _SUMS:
    CPU[f"aten::{_name}"] = _as_a_sum(overload(_name))


def corrected(name: str, op: Infer) -> Infer:
    """The function that infers the results of an operator as this session's workers make them."""
    if name in CPU and process.session().is_on_cpus:
        return CPU[name]
    return EVERYWHERE.get(name, op)
