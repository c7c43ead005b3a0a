"""What kernels of PyTorch take on trust, checked here: sizes that have to fit each other, and indices.

PyTorch's own forward pass makes what most of these read, so they look at nothing; a peer may send anything. A row of `SIZES`
says what has to hold of a call's sizes, asked once for each definition; one of `VALUES` what has to hold of its operands'
elements, asked in every run on a worker that has had several sessions. docs/decisions/015-foreign-memory.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gt.wire import instructions as wire

Size = tuple[int, ...]


class Given:
    """A call's arguments by their names: the size of an operand, sizes in a list, a literal, None where it is missing."""

    def __init__(self, define: wire.Define, op: torch._ops.OpOverload) -> None:
        self._define = define
        named = {a.name: a.default_value for a in op._schema.arguments if a.has_default_value()}
        named |= {a.name: value for a, value in zip(op._schema.arguments, define.args, strict=False)}
        self._values: dict[str, Any] = {**named, **define.kwargs}

    def __getitem__(self, name: str) -> Any:
        return self._seen(self._values.get(name))

    def _seen(self, value: Any) -> Any:
        if isinstance(value, wire.In):
            return self._define.ins[value.index].size
        if isinstance(value, wire.Sparse):
            return value.size
        return [self._seen(v) for v in value] if isinstance(value, list) else value

    def operands(self, name: str) -> list[int]:
        """The index of the operand, or those of the list of operands, that is an argument."""
        value = self._values.get(name)
        listed = value if isinstance(value, list) else [value]
        return [v.index for v in listed if isinstance(v, wire.In)]

    def elements(self, name: str, ins: Sequence[Any]) -> torch.Tensor | None:
        """The operand that is an argument; of a sparse one, its values."""
        value = self._values.get(name)
        if isinstance(value, wire.Sparse):
            return ins[value.parts[-1]]  # type: ignore[no-any-return]
        return ins[value.index] if isinstance(value, wire.In) else None

    def same(self, *names: str) -> bool:
        """Whether those that are there have one size."""
        return len({self[n] for n in names if self[n] is not None}) <= 1

    def have(self, size: Size, *names: str) -> bool:
        """Whether those that are there have this size."""
        return all(self[n] in (None, size) for n in names)


# -- sizes ---------------------------------------------------------------------------------------------------------------

STATISTICS = ("weight", "bias", "running_mean", "running_var")


def _batch_norm(given: Given) -> bool:
    size = given["input"]
    return len(size) > 1 and size[1] > 0 and given.have((size[1],), *STATISTICS)


def _batch_norm_backward(given: Given) -> bool:
    kept = ("save_mean", "save_invstd", "save_var")
    unused = given["train"] is False and all(given[n] in (None, (0,)) for n in kept)
    return _batch_norm(given) and given.same("grad_out", "input") and (unused or given.have((given["input"][1],), *kept))


def _layer_norm_backward(given: Given) -> bool:
    size, normalized = given["input"], tuple(given["normalized_shape"])
    rows = math.prod(size[: len(size) - len(normalized)])
    return (
        given.same("grad_out", "input")
        and 0 < len(normalized) <= len(size)
        and size[-len(normalized) :] == normalized
        and given.have(normalized, "weight", "bias")
        and math.prod(given["mean"]) == math.prod(given["rstd"]) == rows
    )


def _spatial(dims: int) -> Callable[[Given], bool]:
    """A gradient has the batch and the channels of what it is the gradient of; the indices of a pool are one each."""

    def holds(given: Given) -> bool:
        grad, size = given["grad_output"], given["self"]
        fits = len(grad) == len(size) > dims and grad[:-dims] == size[:-dims]
        return fits and given.have(grad, "indices")

    return holds


def _grid_sampler_backward(given: Given) -> bool:
    size, grid = given["input"], given["grid"]
    fits = len(size) == len(grid) and size[0] == grid[0] and grid[-1] == len(size) - 2
    return fits and given.have((*size[:2], *grid[1:-1]), "grad_output")


def _fft(given: Given) -> bool:
    dims, size = given["dim"], given["self"]
    last = given["last_dim_size"]
    inside = all(0 <= d < len(size) for d in dims) and len(set(dims)) == len(dims)
    return inside and (last is None or (last > 0 and len(dims) > 0 and size[dims[-1]] == last // 2 + 1))


def _lu_unpack(given: Given) -> bool:
    size = given["LU_data"]
    return len(size) > 1 and given["LU_pivots"] == (*size[:-2], min(size[-2:]))


def _margin_loss_backward(given: Given) -> bool:
    each = given["self"][0] if given["reduction"] == 0 and len(given["self"]) > 1 else 1
    return math.prod(given["grad_output"]) == each


def _nll_loss2d_backward(given: Given) -> bool:
    size = given["self"]
    target = (size[0], *size[2:]) if len(size) == 4 else None
    whole = given["reduction"] != 0 or given.have(target or (), "grad_output")
    return target is not None and given.have(target, "target") and given.have((size[1],), "weight") and whole


def _cdist_backward(given: Given) -> bool:
    first, second, grad = given["x1"], given["x2"], given["grad"]
    fits = min(len(first), len(second)) > 1 and first[-1] == second[-1]
    batch = torch.broadcast_shapes(first[:-2], second[:-2])
    return fits and grad == (*batch, first[-2], second[-2]) and given.have(grad, "cdist")


def _pdist_backward(given: Given) -> bool:
    count = given["self"][0]
    return len(given["self"]) == 2 and given["grad"] == given["pdist"] == (count * (count - 1) // 2,)


def _unfold_backward(given: Given) -> bool:
    size, dim, length, step = list(given["input_sizes"]), given["dim"], given["size"], given["step"]
    if not size:
        return given["grad_in"] == (length,)
    if not (-len(size) <= dim < len(size) and 0 <= length <= size[dim] and step > 0):
        return False
    size[dim] = (size[dim] - length) // step + 1
    return bool(given["grad_in"] == (*size, length))


def _bags(given: Given) -> bool:
    return math.prod(given["offsets"]) > 0


def _embedding_bag_backward(given: Given) -> bool:
    grad, count = given["grad"], math.prod(given["indices"])
    kept = given["maximum_indices"]
    return (
        len(grad) == 2
        and given.have((count,), "per_sample_weights")
        and math.prod(given["offset2bag"]) in (count, 0 if given["mode"] in (0, 2) else count)
        and (given["bag_size"] is None or math.prod(given["bag_size"]) >= grad[0])
        and (kept is None or given["mode"] != 2 or kept == grad)
        and (given["weight"] is None or (len(given["weight"]) == 2 and given["weight"][1] == grad[1]))
    )


def _ctc_loss(given: Given) -> bool:
    size, kept = given["log_probs"], given["log_alpha"]
    if len(size) != 3 or not 0 <= given["blank"] < size[2]:
        return False
    batch = given.have((size[1],), "grad", "neg_log_likelihood")
    return kept is None or (batch and len(kept) == 3 and kept[:2] == (size[1], size[0]))


def _lists(*others: str) -> Callable[[Given], bool]:
    """The lists of an optimizer: a state for each parameter, of its size."""

    def holds(given: Given) -> bool:
        sizes = given["self"]
        return all(given[name] in ([], sizes) for name in others) and given["grads"] == sizes

    return holds


def _steps(*others: str) -> Callable[[Given], bool]:
    lists = _lists(*others)

    def holds(given: Given) -> bool:
        needed = ("exp_avgs", "exp_avg_sqs", "state_sums", *(("max_exp_avg_sqs",) if given["amsgrad"] is True else ()))
        complete = all(given[name] in (None, given["self"]) for name in needed)
        return lists(given) and complete and [math.prod(s) for s in given["state_steps"]] == [1] * len(given["self"])

    return holds


def _attention(given: Given) -> bool:
    query, key, value = given["query"], given["key"], given["value"]
    return min(map(len, (query, key, value))) > 1 and key[-2] == value[-2] and query[-1] == key[-1]


def _recurrent(gates: int) -> Callable[[Given], bool]:
    """The weights of each layer and direction fit the features that come in, and the states."""

    def holds(given: Given) -> bool:
        packed = given["data"] is not None
        inputs = given["data"] if packed else given["input"]
        states = given["hx"] if isinstance(given["hx"], list) else [given["hx"]]
        hidden, shown = states[-1][-1], states[0][-1]
        kinds: list[Size] = [(gates * hidden, shown)]
        kinds += [(gates * hidden,)] * 2 if given["has_biases"] else []
        kinds += [(shown, hidden)] if shown != hidden else []
        directions = 2 if given["bidirectional"] else 1
        expected: list[Size] = []
        for layer in range(given["num_layers"]):
            features = inputs[-1] if layer == 0 else shown * directions
            expected += [(gates * hidden, features), *kinds] * directions
        batch = states[0][1:2] if packed or len(inputs) < 3 else (inputs[0 if given["batch_first"] else 1],)
        return (
            given["params"] == expected
            and all(s[:-1] == (given["num_layers"] * directions, *batch) for s in states)
            and (not packed or math.prod(given["batch_sizes"]) > 0)
        )

    return holds


def _weight_norm(given: Given) -> bool:
    size = given["v"] or given["saved_v"]
    norms = given["g"] or given["saved_g"]
    dim = given["dim"]
    return (
        math.prod(size) > 0
        and dim in (0, len(size) - 1)
        and math.prod(norms) == size[dim]
        and given.have(size, "grad_w", "saved_v")
        and (given["saved_norms"] is None or math.prod(given["saved_norms"]) == size[dim])
    )


def _observer(given: Given) -> bool:
    per_row, size = given["per_row_fake_quant"], given["self"]
    axis = given["ch_axis"]
    count = size[axis] if per_row is True and -len(size) <= axis < len(size) else 1
    kept = [math.prod(given[n]) for n in ("running_min", "running_max", "scale", "zero_point")]
    return kept in ([count] * 4, [0] * 4)


def _segments(given: Given) -> bool:
    axis, data = given["axis"], given["data"]
    kept = given["lengths"] or given["offsets"]
    if kept is None or axis != len(kept) - 1 or not 0 <= axis < len(data) or kept[:axis] != data[:axis]:
        return kept is None and given["grad"] is None
    count = kept[-1] - (1 if given["lengths"] is None else 0)
    return given.have((*data[:axis], count, *data[axis + 1 :]), "grad", "output")


def _arg_reduced(given: Given) -> bool:
    return given["reduce"] not in ("amax", "amin") or given.same("grad_out", "arg_out")


def _heads(given: Given) -> bool:
    return all(given[name] is None or given[name] > 0 for name in ("num_head", "num_heads"))


def _scaled(name: str) -> Callable[[Given], bool]:
    """A scale makes no less of the operand than the result has: the kernel reads as far as the result over the scale."""

    def holds(given: Given) -> bool:
        scales = zip(given[name][-2:], given["output_size"], (given["scales_h"], given["scales_w"]), strict=True)
        return all(scale is None or int(size * scale) >= out for size, out, scale in scales)

    return holds


Row = Callable[[Given], bool]
SCALED = {f"_upsample_{kind}2d_aa": _scaled("self") for kind in ("bilinear", "bicubic", "lanczos")}
SCALED |= {f"{name}_backward": _scaled("input_size") for name in SCALED}
POOLS = {
    f"{kind}_pool{dims}d_backward": _spatial(dims) for kind in ("_adaptive_avg", "avg", "adaptive_max") for dims in (2, 3)
}
POOLS |= {f"max_pool{dims}d_with_indices_backward": _spatial(dims) for dims in (2, 3)}
POOLS |= {f"fractional_max_pool{dims}d_backward": _spatial(dims) for dims in (2, 3)}
PADS = {f"{kind}_pad{dims}d_backward": _spatial(dims) for kind in ("reflection", "replication") for dims in (1, 2, 3)}
SIZES: dict[str, Row] = {
    **POOLS,
    **PADS,
    **SCALED,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_batch_norm_with_update": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "batch_norm_backward": _batch_norm_backward,
    "native_layer_norm_backward": _layer_norm_backward,
    "_log_softmax_backward_data": lambda given: given.same("grad_output", "output"),
    "_softmax_backward_data": lambda given: given.same("grad_output", "output"),
    "grid_sampler_2d_backward": _grid_sampler_backward,
    "grid_sampler_3d_backward": _grid_sampler_backward,
    "_fft_c2c": _fft,
    "_fft_r2c": _fft,
    "_fft_c2r": _fft,
    "lu_unpack": _lu_unpack,
    "multi_margin_loss_backward": _margin_loss_backward,
    "multilabel_margin_loss_backward": _margin_loss_backward,
    "nll_loss2d_backward": _nll_loss2d_backward,
    "_cdist_backward": _cdist_backward,
    "_pdist_backward": _pdist_backward,
    "unfold_backward": _unfold_backward,
    "_embedding_bag": _bags,
    "_embedding_bag_forward_only": _bags,
    "_embedding_bag_backward": _embedding_bag_backward,
    "_embedding_bag_per_sample_weights_backward": _embedding_bag_backward,
    "_ctc_loss": _ctc_loss,
    "_ctc_loss_backward": _ctc_loss,
    "_fused_adam_": _steps("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"),
    "_fused_adamw_": _steps("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"),
    "_fused_adagrad_": _steps("state_sums"),
    "_fused_sgd_": _lists("momentum_buffer_list"),
    "scaled_dot_product_attention": _attention,
    "lstm": _recurrent(4),
    "gru": _recurrent(3),
    "rnn_tanh": _recurrent(1),
    "rnn_relu": _recurrent(1),
    "_weight_norm_interface": _weight_norm,
    "_weight_norm_interface_backward": _weight_norm,
    "_fused_moving_avg_obs_fq_helper": _observer,
    "segment_reduce": _segments,
    "_segment_reduce_backward": _segments,
    "_sparse_mm_reduce_impl_backward": _arg_reduced,
    "_native_multi_head_attention": _heads,
    "_transformer_encoder_layer_fwd": _heads,
    "_spdiags": lambda given: min(given["shape"], default=0) >= 0,
}
"""By an operator's name, for all its overloads: whether the sizes and literals of a call fit each other."""


def _fits_in_line(geometry: wire.Geometry) -> bool:
    """Whether as many elements as it has, one after the other, lie in what it spans: not so where it is expanded."""
    return math.prod(geometry.size) <= 1 + sum((n - 1) * s for n, s in zip(geometry.size, geometry.stride, strict=True))


DENSE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only", "_embedding_bag_backward"), ("indices", "offsets")),
    "_embedding_bag_per_sample_weights_backward": ("indices", "offsets", "offset2bag"),
    **dict.fromkeys(("_fused_adam_", "_fused_adamw_"), ("self", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs")),
    "_fused_adagrad_": ("self", "grads", "state_sums"),
    "_fused_sgd_": ("self", "grads", "momentum_buffer_list"),
    "_fused_moving_avg_obs_fq_helper": ("running_min", "running_max", "scale", "zero_point"),
    "_weight_norm_interface": ("v", "g"),
    "_weight_norm_interface_backward": ("grad_w", "saved_v", "saved_g", "saved_norms"),
    **dict.fromkeys((name for name in POOLS if "max" in name), ("grad_output", "indices")),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), ("batch_sizes",)),
    "native_group_norm": ("input", "weight", "bias"),
    "native_group_norm_backward": ("grad_out", "input", "mean", "rstd", "weight"),
    "rrelu_with_noise": ("noise",),
    "rrelu_with_noise_": ("noise",),
}
"""By an operator's name: the arguments whose kernel goes from element to element without a look at their strides."""


# -- elements ------------------------------------------------------------------------------------------------------------

Elements = Sequence[Any]


def _inside(indices: torch.Tensor | None, limit: int, but: int | None = None) -> bool:
    """Whether all are from 0 on and less than `limit`, but those that equal `but`."""
    if indices is None or not indices.numel():
        return True
    if but is not None:
        indices = indices[indices != but]
        if not indices.numel():
            return True
    low, high = torch.aminmax(indices)
    return bool(low >= 0) and bool(high < limit)


def _pooled(dims: int) -> Callable[[Given, Elements], bool]:
    return lambda given, ins: _inside(given.elements("indices", ins), math.prod(given["self"][-dims:]))


def _classes(given: Given, ins: Elements) -> bool:
    return _inside(given.elements("target", ins), given["self"][1], given["ignore_index"])


def _bag_indices(given: Given, ins: Elements) -> bool:
    rows = given["weight"][0] if given["num_weights"] is None else given["num_weights"]
    offsets, bags = given.elements("offsets", ins), given.elements("offset2bag", ins)
    follow = offsets is not None and (bags is None or not bags.numel())  # the bags, from the offsets
    if follow and int((offsets < math.prod(given["indices"])).sum()) > given["grad"][0]:
        return False
    return (
        _inside(given.elements("indices", ins), rows)
        and _inside(given.elements("offset2bag", ins), given["grad"][0])
        and _inside(given.elements("maximum_indices", ins), rows, -1)
    )


def _labels(given: Given, ins: Elements) -> bool:
    """The lengths are of what is there, and what they cover of the targets is classes."""
    steps, batch, classes = given["log_probs"]
    targets = given.elements("targets", ins)
    inputs, lengths = (
        given[n] if (tensor := given.elements(n, ins)) is None else tensor.flatten().tolist()
        for n in ("input_lengths", "target_lengths")
    )
    kept = given["log_alpha"]
    longest = max(lengths, default=0)
    if targets is None or len(inputs) != batch or len(lengths) != batch or min(lengths, default=0) < 0:
        return False
    if not all(0 <= n <= steps for n in inputs) or (kept is not None and kept[2] < 2 * longest + 1):
        return False
    if targets.dim() == 1:
        return targets.numel() >= sum(lengths) and _inside(targets[: sum(lengths)], classes)
    fits = targets.dim() == 2 and targets.shape[0] == batch and targets.shape[1] >= longest
    return fits and all(_inside(row[:n], classes) for row, n in zip(targets, lengths, strict=True))


def _segment_ends(given: Given, ins: Elements) -> bool:
    lengths, offsets = given.elements("lengths", ins), given.elements("offsets", ins)
    count = given["data"][given["axis"]]
    if lengths is not None:
        return _inside(lengths, count + 1) and (not lengths.numel() or bool((lengths.sum(-1) <= count).all()))
    return offsets is None or (_inside(offsets, count + 1) and bool((offsets.diff() >= 0).all()))


def _reduced(given: Given, ins: Elements) -> bool:
    values = given.elements("self", ins)
    return values is not None and _inside(given.elements("arg_out", ins), values.shape[0] + 1)


VALUES: dict[str, Callable[[Given, Elements], bool]] = {
    **{name: _pooled(3 if "3d" in name else 2) for name in POOLS if "max" in name},
    "nll_loss2d_backward": _classes,
    "_embedding_bag_backward": _bag_indices,
    "_embedding_bag_per_sample_weights_backward": _bag_indices,
    "_ctc_loss": _labels,
    "_ctc_loss_backward": _labels,
    "segment_reduce": _segment_ends,
    "_segment_reduce_backward": _segment_ends,
    "_sparse_mm_reduce_impl_backward": _reduced,
}
"""By an operator's name: whether the elements of its operands are places that are there."""


class Trust:
    """What a call's kernel takes on trust. Raises RuntimeError where its sizes do not fit each other."""

    __slots__ = ("_given", "_name", "_values", "overlapping")

    def __init__(self, define: wire.Define, op: torch._ops.OpOverload) -> None:
        self._name = define.op
        base = define.op.removeprefix("aten::").partition(".")[0]
        self._values = VALUES.get(base)
        self._given = Given(define, op)
        row = SIZES.get(base)
        if row is not None and not _holds(row, self._given):
            raise RuntimeError(f"{self._name}: the sizes of its operands do not fit each other")
        dense = (index for name in DENSE.get(base, ()) for index in self._given.operands(name))
        self.overlapping = [index for index in dense if not _fits_in_line(define.ins[index])]
        """Operands whose elements share memory, for which the kernel needs copies."""

    @property
    def looks(self) -> bool:
        """Whether it has to look at elements."""
        return self._values is not None

    def check(self, ins: Elements) -> None:
        """Raises IndexError where an element is no place in what it is an index of."""
        if self._values is not None and not self._values(self._given, ins):
            raise IndexError(f"{self._name}: an index is out of range")


def _holds(row: Row, given: Given) -> bool:
    try:
        return row(given)
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # an argument of another kind
        return False
