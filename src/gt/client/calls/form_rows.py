"""The operators whose results have sizes that stand in the call: a row each, saying where besides in the operands.

Every size of a result is that of a dim of an operand, stands in an argument, or is computed by the row. Operators that take
the smaller of two sizes, divide sizes, or make a size of the elements have no row. `python -m tests.oracle.forms` compares
what follows from a row with inference, over PyTorch's database of operators.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gt.client.calls.schemas import OpOverload
from gt.client.stream.geometry import TensorSpec

Args = tuple[Any, ...]
Specs = Sequence[TensorSpec]


def _nothing(args: Args, specs: Specs) -> list[int]:
    return []


@dataclass(frozen=True, slots=True)
class Row:
    """Where an operator's sizes stand."""

    free: tuple[int, ...] = ()
    """Positions of arguments whose numbers matter in nothing but `more`."""
    more: Callable[[Args, Specs], list[int] | None] = _nothing
    """The sizes beside those of the operands; None for a call to which the rule does not apply."""

    def rest(self, args: Args, kwargs: dict[str, Any], key: tuple[Any, ...], specs: Specs) -> Sequence[Any]:
        """`key`, by which the kernels find the call, without the numbers of the free arguments."""
        if not self.free:
            return key
        pending, found = iter(specs), list[Any]()
        for position, a in enumerate(args):
            if position in self.free:
                found.append((type(a), len(a) if isinstance(a, (list, tuple)) else 0))
            else:
                found.append(next(pending) if isinstance(a, torch.Tensor) else (type(a), a))
        for name, value in kwargs.items():
            found.append((name, type(value), value))
        return found


def _sizes_at(position: int) -> Callable[[Args, Specs], list[int] | None]:
    """The sizes in one argument, a number or a list."""

    def more(args: Args, specs: Specs) -> list[int] | None:
        given = args[position]
        return list(given) if isinstance(given, (list, tuple)) else [given]

    return more


def _total(args: Args, specs: Specs) -> list[int] | None:
    """The size of the dim in which `cat` puts its operands together."""
    dim = args[1] if len(args) > 1 else 0
    fits = all(-len(spec.size) <= dim < len(spec.size) for spec in specs)
    return [sum(spec.size[dim] for spec in specs)] if fits else None


def _largest(args: Args, specs: Specs) -> list[int] | None:
    """The number of elements that `topk` takes, if there are as many."""
    count, dim = args[1], args[2] if len(args) > 2 else -1
    size = specs[0].size
    return [count] if -len(size) <= dim < len(size) and count <= size[dim] else None


def _steps(args: Args, specs: Specs) -> list[int] | None:
    """The number of elements of an `arange` of integers."""
    if any(type(a) is not int for a in args):
        return None
    start, end, step = (0, args[0], 1) if len(args) == 1 else (*args, 1)[:3]
    return [-((start - end) // step)] if step else None  # rounded up


def _repeated(args: Args, specs: Specs) -> list[int] | None:
    """The sizes of a tensor that is repeated; new dims come first."""
    repeats = args[1]
    size = (1,) * (len(repeats) - len(specs[0].size)) + tuple(specs[0].size)
    return [n * times for n, times in zip(size, repeats, strict=True)] if len(size) == len(repeats) else None


def _padded(args: Args, specs: Specs) -> list[int] | None:
    """The sizes of a tensor that is padded; the last dim's two numbers come first."""
    size, pad = specs[0].size, args[1]
    if len(pad) % 2 or len(pad) > 2 * len(size) or any(n < 0 for n in pad):
        return None
    return [n + sum(pad[2 * i : 2 * i + 2]) for i, n in enumerate(reversed(size))]


def _sharing_heads(args: Args, specs: Specs) -> list[int] | None:
    """The rule holds where queries [..., heads, length, features] have a multiple of the keys' heads."""
    query, key = specs[0].size, specs[1].size
    return [] if len(query) < 3 or len(key) < 3 or query[-3] % key[-3] == 0 else None


def _of_gates(args: Args, specs: Specs) -> list[int] | None:
    """The sizes that recurrent layers make of that of a state: of both directions, and of the weights of several gates."""
    return [specs[1].size[-1] * count for count in (2, 3, 4)]


def _of_projections(args: Args, specs: Specs) -> list[int] | None:
    """The size of the weight that makes queries, keys and values of an input at once."""
    return [specs[0].size[-1] * 3] if specs[0].size else None


def _indexing_whole_dims(args: Args, specs: Specs) -> list[int] | None:
    """The rule holds where the indices [...] have the tensor's sizes in all dims but one: elsewhere they may be smaller."""
    dim = args[1] % max(1, len(specs[0].size))
    sizes = zip(specs[0].size, specs[1].size, strict=False)
    same = len(specs[0].size) == len(specs[1].size) and all(n == m for d, (n, m) in enumerate(sizes) if d != dim)
    return [] if same else None


_PLAIN = """
    linear linear_backward mm bmm addmm baddbmm addbmm mv addmv dot
    _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data _safe_softmax
    native_layer_norm native_layer_norm_backward _fused_rms_norm _fused_rms_norm_backward native_dropout
    native_dropout_backward embedding index_select index.Tensor index_put index_put_ masked_fill masked_fill_ where
    sum mean amax amin max min argmax argmin all any prod logsumexp var var_mean std std_mean linalg_vector_norm norm
    cumsum cumprod sort tril triu flip roll isin clone copy_ _to_copy fill_ zero_
    zeros_like ones_like full_like empty_like rand_like randn_like
    nll_loss_forward nll_loss_backward mse_loss mse_loss_backward smooth_l1_loss smooth_l1_loss_backward
    binary_cross_entropy binary_cross_entropy_backward
    stack rnn_tanh_cell rnn_relu_cell
"""
"""All overloads, or the one named: no size stands in an argument. Beside them the operators tagged as pointwise."""
ROWS: dict[str, Row] = {
    **dict.fromkeys(_PLAIN.split(), Row()),
    **dict.fromkeys(("zeros", "ones", "empty.memory_format", "rand", "randn"), Row((0,), _sizes_at(0))),
    "full": Row((0, 1), _sizes_at(0)),
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty"), Row((1,), _sizes_at(1))),
    "new_full": Row((1, 2), _sizes_at(1)),
    **dict.fromkeys(("arange", "arange.start", "arange.start_step"), Row((0, 1, 2), _steps)),
    "cat": Row((), _total),
    "repeat": Row((1,), _repeated),
    "constant_pad_nd": Row((1, 2), _padded),
    **dict.fromkeys(
        ("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input", "lstm_cell", "gru_cell"), Row((), _of_gates)
    ),
    **dict.fromkeys(("_transformer_encoder_layer_fwd", "_native_multi_head_attention"), Row((), _of_projections)),
    "scaled_dot_product_attention": Row((), _sharing_heads),
    "topk": Row((1,), _largest),
    "gather": Row((), _indexing_whole_dims),
    "select_backward": Row((1, 3), _sizes_at(1)),
    "slice_backward": Row((1, 3, 4), _sizes_at(1)),
    "embedding_dense_backward": Row((2,), _sizes_at(2)),
}


@functools.cache
def row_of(op: OpOverload) -> Row | None:
    """An operator's row; None for one that has none."""
    short = op.name().removeprefix("aten::")
    base, _, overload = short.partition(".")
    if overload.endswith("out"):
        return None
    found = ROWS.get(short) or ROWS.get(base)
    return Row() if found is None and torch.Tag.pointwise in op.tags else found
