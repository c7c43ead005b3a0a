"""Sizes that kernels do not check: a rule for each operator says how those of a call must fit each other."""

from __future__ import annotations

import math

import torch

from gt.worker.checks.layer_sizes import LAYER_SIZES, Rule
from gt.worker.checks.named import NamedArguments


def _fft(args: NamedArguments) -> bool:
    dims, size = args["dim"], args["self"]
    last = args["last_dim_size"]
    inside = all(0 <= d < len(size) for d in dims) and len(set(dims)) == len(dims)
    return inside and (last is None or (last > 0 and len(dims) > 0 and size[dims[-1]] == last // 2 + 1))


def _lu_unpack(args: NamedArguments) -> bool:
    size = args["LU_data"]
    return len(size) > 1 and args["LU_pivots"] == (*size[:-2], min(size[-2:]))


def _cdist_backward(args: NamedArguments) -> bool:
    first, second, grad = args["x1"], args["x2"], args["grad"]
    fits = min(len(first), len(second)) > 1 and first[-1] == second[-1]
    batch = torch.broadcast_shapes(first[:-2], second[:-2])
    return fits and grad == (*batch, first[-2], second[-2]) and args.have(grad, "cdist")


def _pdist_backward(args: NamedArguments) -> bool:
    count = args["self"][0]
    return len(args["self"]) == 2 and args["grad"] == args["pdist"] == (count * (count - 1) // 2,)


def _unfold_backward(args: NamedArguments) -> bool:
    size, dim, length, step = list(args["input_sizes"]), args["dim"], args["size"], args["step"]
    if not size:
        return args["grad_in"] == (length,)
    if not (-len(size) <= dim < len(size) and 0 <= length <= size[dim] and step > 0):
        return False
    size[dim] = (size[dim] - length) // step + 1
    return bool(args["grad_in"] == (*size, length))


def _lists(*others: str) -> Rule:
    """An optimizer's lists hold one state for each parameter, of its size."""

    def holds(args: NamedArguments) -> bool:
        sizes = args["self"]
        return all(args[name] in ([], sizes) for name in others) and args["grads"] == sizes

    return holds


def _steps(*others: str) -> Rule:
    """The same for optimizers that count steps: one number for each parameter."""
    lists = _lists(*others)

    def holds(args: NamedArguments) -> bool:
        needed = ("exp_avgs", "exp_avg_sqs", "state_sums", *(("max_exp_avg_sqs",) if args["amsgrad"] is True else ()))
        complete = all(args[name] in (None, args["self"]) for name in needed)
        return lists(args) and complete and [math.prod(s) for s in args["state_steps"]] == [1] * len(args["self"])

    return holds


def _observer(args: NamedArguments) -> bool:
    per_row, size = args["per_row_fake_quant"], args["self"]
    axis = args["ch_axis"]
    count = size[axis] if per_row is True and -len(size) <= axis < len(size) else 1
    kept = [math.prod(args[n]) for n in ("running_min", "running_max", "scale", "zero_point")]
    return kept in ([count] * 4, [0] * 4)


def _segments(args: NamedArguments) -> bool:
    axis, data = args["axis"], args["data"]
    kept = args["lengths"] or args["offsets"]
    if kept is None or axis != len(kept) - 1 or not 0 <= axis < len(data) or kept[:axis] != data[:axis]:
        return kept is None and args["grad"] is None
    count = kept[-1] - (1 if args["lengths"] is None else 0)
    return args.have((*data[:axis], count, *data[axis + 1 :]), "grad", "output")


def _arg_reduced(args: NamedArguments) -> bool:
    return args["reduce"] not in ("amax", "amin") or args.same("grad_out", "arg_out")


SIZES: dict[str, Rule] = {
    **LAYER_SIZES,
    "_fft_c2c": _fft,
    "_fft_r2c": _fft,
    "_fft_c2r": _fft,
    "lu_unpack": _lu_unpack,
    "_cdist_backward": _cdist_backward,
    "_pdist_backward": _pdist_backward,
    "unfold_backward": _unfold_backward,
    "_fused_adam_": _steps("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"),
    "_fused_adamw_": _steps("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"),
    "_fused_adagrad_": _steps("state_sums"),
    "_fused_sgd_": _lists("momentum_buffer_list"),
    "_fused_moving_avg_obs_fq_helper": _observer,
    "segment_reduce": _segments,
    "_segment_reduce_backward": _segments,
    "_sparse_mm_reduce_impl_backward": _arg_reduced,
    "_spdiags": lambda args: min(args["shape"], default=0) >= 0,
}
"""By an operator's name, for all its overloads."""
