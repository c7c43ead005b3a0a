"""Sizes that the kernels of neural-network layers and losses do not check: how they must fit, a rule for each operator."""

from __future__ import annotations

import math
from collections.abc import Callable

from gt.worker.checks.named import NamedArguments, Size

Rule = Callable[[NamedArguments], bool]
"""Whether the sizes and literals of a call fit each other."""
STATISTICS = ("weight", "bias", "running_mean", "running_var")


def _batch_norm(args: NamedArguments) -> bool:
    size = args["input"]
    return len(size) > 1 and size[1] > 0 and args.have((size[1],), *STATISTICS)


def _batch_norm_backward(args: NamedArguments) -> bool:
    kept = ("save_mean", "save_invstd", "save_var")
    unused = args["train"] is False and all(args[n] in (None, (0,)) for n in kept)
    return _batch_norm(args) and args.same("grad_out", "input") and (unused or args.have((args["input"][1],), *kept))


def _layer_norm_backward(args: NamedArguments) -> bool:
    size, normalized = args["input"], tuple(args["normalized_shape"])
    rows = math.prod(size[: len(size) - len(normalized)])
    return (
        args.same("grad_out", "input")
        and 0 < len(normalized) <= len(size)
        and size[-len(normalized) :] == normalized
        and args.have(normalized, "weight", "bias")
        and math.prod(args["mean"]) == math.prod(args["rstd"]) == rows
    )


def _weight_norm(args: NamedArguments) -> bool:
    size = args["v"] or args["saved_v"]
    norms = args["g"] or args["saved_g"]
    dim = args["dim"]
    return (
        math.prod(size) > 0
        and dim in (0, len(size) - 1)
        and math.prod(norms) == size[dim]
        and args.have(size, "grad_w", "saved_v")
        and (args["saved_norms"] is None or math.prod(args["saved_norms"]) == size[dim])
    )


def _spatial(dims: int) -> Rule:
    """A gradient has the batch and channels of the operand that was pooled or padded, and an index for each element."""

    def holds(args: NamedArguments) -> bool:
        grad, size = args["grad_output"], args["self"]
        fits = len(grad) == len(size) > dims and grad[:-dims] == size[:-dims]
        return fits and args.have(grad, "indices")

    return holds


def _grid_sampler_backward(args: NamedArguments) -> bool:
    size, grid = args["input"], args["grid"]
    fits = len(size) == len(grid) and size[0] == grid[0] and grid[-1] == len(size) - 2
    return fits and args.have((*size[:2], *grid[1:-1]), "grad_output")


def _scaled(name: str) -> Rule:
    """The operand times its scale is at least as large as the result: the kernel reads up to result / scale."""

    def holds(args: NamedArguments) -> bool:
        scales = zip(args[name][-2:], args["output_size"], (args["scales_h"], args["scales_w"]), strict=True)
        return all(scale is None or int(size * scale) >= out for size, out, scale in scales)

    return holds


def _margin_loss_backward(args: NamedArguments) -> bool:
    each = args["self"][0] if args["reduction"] == 0 and len(args["self"]) > 1 else 1
    return math.prod(args["grad_output"]) == each


def _nll_loss2d_backward(args: NamedArguments) -> bool:
    size = args["self"]
    target = (size[0], *size[2:]) if len(size) == 4 else None
    whole = args["reduction"] != 0 or args.have(target or (), "grad_output")
    return target is not None and args.have(target, "target") and args.have((size[1],), "weight") and whole


def _ctc_loss(args: NamedArguments) -> bool:
    size, kept = args["log_probs"], args["log_alpha"]
    if len(size) != 3 or not 0 <= args["blank"] < size[2]:
        return False
    batch = args.have((size[1],), "grad", "neg_log_likelihood")
    return kept is None or (batch and len(kept) == 3 and kept[:2] == (size[1], size[0]))


def _bags(args: NamedArguments) -> bool:
    return math.prod(args["offsets"]) > 0


def _embedding_bag_backward(args: NamedArguments) -> bool:
    grad, count = args["grad"], math.prod(args["indices"])
    kept = args["maximum_indices"]
    return (
        len(grad) == 2
        and args.have((count,), "per_sample_weights")
        and math.prod(args["offset2bag"]) in (count, 0 if args["mode"] in (0, 2) else count)
        and (args["bag_size"] is None or math.prod(args["bag_size"]) >= grad[0])
        and (kept is None or args["mode"] != 2 or kept == grad)
        and (args["weight"] is None or (len(args["weight"]) == 2 and args["weight"][1] == grad[1]))
    )


def _attention(args: NamedArguments) -> bool:
    query, key, value = args["query"], args["key"], args["value"]
    return min(map(len, (query, key, value))) > 1 and key[-2] == value[-2] and query[-1] == key[-1]


def _heads(args: NamedArguments) -> bool:
    return all(args[name] is None or args[name] > 0 for name in ("num_head", "num_heads"))


def _recurrent(gates: int) -> Rule:
    """The weights of each layer and direction fit its input features and the states. `gates`: blocks of rows in a weight."""

    def holds(args: NamedArguments) -> bool:
        packed = args["data"] is not None
        inputs = args["data"] if packed else args["input"]
        states = args["hx"] if isinstance(args["hx"], list) else [args["hx"]]
        hidden, shown = states[-1][-1], states[0][-1]
        kinds: list[Size] = [(gates * hidden, shown)]
        kinds += [(gates * hidden,)] * 2 if args["has_biases"] else []
        kinds += [(shown, hidden)] if shown != hidden else []
        directions = 2 if args["bidirectional"] else 1
        expected: list[Size] = []
        for layer in range(args["num_layers"]):
            features = inputs[-1] if layer == 0 else shown * directions
            expected += [(gates * hidden, features), *kinds] * directions
        batch = states[0][1:2] if packed or len(inputs) < 3 else (inputs[0 if args["batch_first"] else 1],)
        return (
            args["params"] == expected
            and all(s[:-1] == (args["num_layers"] * directions, *batch) for s in states)
            and (not packed or math.prod(args["batch_sizes"]) > 0)
        )

    return holds


SCALED = {f"_upsample_{kind}2d_aa": _scaled("self") for kind in ("bilinear", "bicubic", "lanczos")}
SCALED |= {f"{name}_backward": _scaled("input_size") for name in SCALED}
POOLS = {
    f"{kind}_pool{dims}d_backward": _spatial(dims) for kind in ("_adaptive_avg", "avg", "adaptive_max") for dims in (2, 3)
}
POOLS |= {f"max_pool{dims}d_with_indices_backward": _spatial(dims) for dims in (2, 3)}
POOLS |= {f"fractional_max_pool{dims}d_backward": _spatial(dims) for dims in (2, 3)}
PADS = {f"{kind}_pad{dims}d_backward": _spatial(dims) for kind in ("reflection", "replication") for dims in (1, 2, 3)}
MAX_POOLS = tuple(name for name in POOLS if "max" in name)
"""The pools that take indices."""
LAYER_SIZES: dict[str, Rule] = {
    **POOLS,
    **PADS,
    **SCALED,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_batch_norm_with_update": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "batch_norm_backward": _batch_norm_backward,
    "native_layer_norm_backward": _layer_norm_backward,
    "_log_softmax_backward_data": lambda args: args.same("grad_output", "output"),
    "_softmax_backward_data": lambda args: args.same("grad_output", "output"),
    "grid_sampler_2d_backward": _grid_sampler_backward,
    "grid_sampler_3d_backward": _grid_sampler_backward,
    "multi_margin_loss_backward": _margin_loss_backward,
    "multilabel_margin_loss_backward": _margin_loss_backward,
    "nll_loss2d_backward": _nll_loss2d_backward,
    "_embedding_bag": _bags,
    "_embedding_bag_forward_only": _bags,
    "_embedding_bag_backward": _embedding_bag_backward,
    "_embedding_bag_per_sample_weights_backward": _embedding_bag_backward,
    "_ctc_loss": _ctc_loss,
    "_ctc_loss_backward": _ctc_loss,
    "scaled_dot_product_attention": _attention,
    "lstm": _recurrent(4),
    "gru": _recurrent(3),
    "rnn_tanh": _recurrent(1),
    "rnn_relu": _recurrent(1),
    "_weight_norm_interface": _weight_norm,
    "_weight_norm_interface_backward": _weight_norm,
    "_native_multi_head_attention": _heads,
    "_transformer_encoder_layer_fwd": _heads,
}
"""By an operator's name, for all its overloads."""
