"""Calls that are tried in this process first, on small CPU tensors that stand for the operands.

What fails here is asked of the worker at the call, whose word counts; nothing is refused for the trial's sake.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from gt.client.calls import schemas, templates
from gt.client.calls.schemas import OpOverload
from gt.client.session.random_sequence import undisturbed
from gt.client.stream.isolation import isolated, untraced

Tensor = torch.Tensor


def _in_place_too(*names: str) -> set[str]:
    return {f"aten::{name}{in_place}" for name in names for in_place in ("", "_")}


INDEXED = _in_place_too(
    "index_add", "index_copy", "index_fill", "index_put", "index_reduce", "scatter", "scatter_add", "scatter_reduce", "put",
) | {
    f"aten::{name}"
    for name in (
        "index", "index_select", "gather", "take", "embedding", "nll_loss_forward", "nll_loss2d_forward", "searchsorted",
        "bucketize",
    )
}  # fmt: skip
"""Operators with indices that a CPU checks thoroughly: they can be tried in this process without harm."""
CHECKED = _in_place_too("bernoulli", "celu", "renorm", "mvlgamma") | {
    f"aten::{name}"
    for name in (
        "uniform_", "normal", "normal_", "log_normal_", "geometric_", "cauchy_", "exponential_", "random_", "randint",
        "randint_like", "randperm", "native_dropout", "multinomial", "histc", "smooth_l1_loss", "softshrink",
        "_cdist_forward", "elu_backward", "leaky_relu_backward", "rrelu_with_noise_backward", "im2col", "_linalg_svd",
        "linalg_lu", "linalg_lu_factor_ex",
    )
}  # fmt: skip
"""Operators whose numbers a CPU checks where inference does not."""
CONVERTING = _in_place_too("fill", "masked_fill", "index_fill", "scatter") | {
    f"aten::{name}" for name in ("full", "full_like", "new_full", "scalar_tensor", "constant_pad_nd", "linspace", "logspace")
}
"""Operators that write a number, for which the dtype may have no room."""
WIDE = {None, torch.bool, torch.int64, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128}
"""Dtypes that have room for nearly every number of their kind; None: the one that a number has by itself."""
BOUNDS = {"from", "to", "low", "high"}
"""Integers that size nothing."""
LARGE = 1 << 12


def of_numbers(op: OpOverload) -> Callable[[tuple[Any, ...], dict[str, Any]], bool] | None:
    """Whether each number of such calls is to be tried; None where none of the operator's ever is."""
    if op._schema.name in CHECKED:
        return lambda args, kwargs: True
    converts = op._schema.name in CONVERTING and any(str(a.type) == "number" for a in op._schema.arguments)
    return _may_not_fit if converts else None


def _may_not_fit(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the dtype that a converting operator writes may have no room for its number."""
    dtype = kwargs.get("dtype") or (args[0].dtype if isinstance(args[0], Tensor) else None)
    return dtype not in WIDE or (dtype is torch.int64 and any(type(a) is float for a in args))


@untraced
def fails(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a CPU refuses small operands that stand for the real ones: their dtypes, and sizes in the same order.

    What would make much here fails too.
    """
    if _makes_much(op, args):
        return True
    sizes = {n for t in templates.tensors_in((*args, *kwargs.values())) for n in t.shape if n > 1}
    small = {0: 0, 1: 1} | {n: rank for rank, n in enumerate(sorted(sizes), 2)}
    untouched = undisturbed() if schemas.draws(op) else contextlib.nullcontext()
    try:
        with torch.no_grad(), isolated(), untouched:
            op(*[_standing_for(a, small) for a in args], **{k: _standing_for(v, small) for k, v in kwargs.items()})
    except Exception:
        return True
    return False


def _makes_much(op: OpOverload, args: tuple[Any, ...]) -> bool:
    given = zip(op._schema.arguments, args, strict=False)
    return any(type(a) is int and a > LARGE and str(p.type) == "int" and p.name not in BOUNDS for p, a in given)


def _standing_for(value: Any, small: dict[int, int]) -> Any:
    """Zeros, which any index may be; ones of floats and masks, so that no weight and no dim vanishes; lists of sizes
    that are as small."""
    if isinstance(value, Tensor):
        size = [small[n] for n in value.shape]
        one = value.dtype is torch.bool or value.is_floating_point()
        return torch.full(size, one, dtype=value.dtype, device="cpu")
    if isinstance(value, (list, tuple)):
        return [min(v, 2) if type(v) is int else _standing_for(v, small) for v in value]
    return torch.device("cpu") if isinstance(value, torch.device) else value
