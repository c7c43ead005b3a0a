"""Operands that kernels walk from element to element without looking at strides, so that no two may share memory."""

from __future__ import annotations

import math

from gt.wire import instructions as wire
from gt.worker.checks.layer_sizes import MAX_POOLS
from gt.worker.checks.named import NamedArguments

DENSE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only", "_embedding_bag_backward"), ("indices", "offsets")),
    "_embedding_bag_per_sample_weights_backward": ("indices", "offsets", "offset2bag"),
    **dict.fromkeys(("_fused_adam_", "_fused_adamw_"), ("self", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs")),
    "_fused_adagrad_": ("self", "grads", "state_sums"),
    "_fused_sgd_": ("self", "grads", "momentum_buffer_list"),
    "_fused_moving_avg_obs_fq_helper": ("running_min", "running_max", "scale", "zero_point"),
    "_weight_norm_interface": ("v", "g"),
    "_weight_norm_interface_backward": ("grad_w", "saved_v", "saved_g", "saved_norms"),
    **dict.fromkeys(MAX_POOLS, ("grad_output", "indices")),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), ("batch_sizes",)),
    "native_group_norm": ("input", "weight", "bias"),
    "native_group_norm_backward": ("grad_out", "input", "mean", "rstd", "weight"),
    "rrelu_with_noise": ("noise",),
    "rrelu_with_noise_": ("noise",),
}
"""By an operator's name, for all its overloads: the arguments that its kernel walks so."""


def overlapping(name: str, define: wire.Define, args: NamedArguments) -> list[int]:
    """The operands (by index) of the operator `name`, without overload, that it needs dense and that are not."""
    dense = (index for argument in DENSE.get(name, ()) for index in args.operands(argument))
    return [index for index in dense if not _fits_in_line(define.ins[index])]


def _fits_in_line(geometry: wire.Geometry) -> bool:
    """Whether it spans room for all its elements one after the other; an expanded tensor does not."""
    return math.prod(geometry.size) <= 1 + sum((n - 1) * s for n, s in zip(geometry.size, geometry.stride, strict=True))
