"""Dry runs: calls that are tried in this process first, on small CPU tensors in place of the operands.

What fails here is asked of the worker at the call, and its word counts; nothing is refused because of a dry run.
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
"""Operators whose indices a CPU checks thoroughly, so that they can be tried in this process without harm."""
CHECKED = _in_place_too("bernoulli", "celu", "renorm", "mvlgamma") | {
    f"aten::{name}"
    for name in (
        "uniform_", "normal", "normal_", "log_normal_", "geometric_", "cauchy_", "exponential_", "random_", "randint",
        "randint_like", "randperm", "native_dropout", "multinomial", "histc", "smooth_l1_loss", "softshrink",
        "_cdist_forward", "elu_backward", "leaky_relu_backward", "rrelu_with_noise_backward", "im2col", "_linalg_svd",
        "linalg_lu", "linalg_lu_factor_ex",
    )
}  # fmt: skip
"""Operators whose numbers a CPU checks and inference does not."""
CONVERTING = _in_place_too("fill", "masked_fill", "index_fill", "scatter") | {
    f"aten::{name}" for name in ("full", "full_like", "new_full", "scalar_tensor", "constant_pad_nd", "linspace", "logspace")
}
"""Operators that write a number, which may not fit the dtype."""
WIDE = {None, torch.bool, torch.int64, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128}
"""Dtypes that hold nearly every number of their kind; None stands for a number's own dtype."""
BOUNDS = {"from", "to", "low", "high"}
"""Names of integer arguments that are not sizes."""
LARGE = 1 << 12


def of_numbers(op: OpOverload) -> Callable[[tuple[Any, ...], dict[str, Any]], bool] | None:
    """A predicate: whether each number of a call must be tried. None if no number of the operator ever is."""
    if op._schema.name in CHECKED:
        return lambda args, kwargs: True
    converts = op._schema.name in CONVERTING and any(str(a.type) == "number" for a in op._schema.arguments)
    return _may_not_fit if converts else None


def _may_not_fit(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a number may not fit the dtype that a converting operator writes."""
    dtype = kwargs.get("dtype") or (args[0].dtype if isinstance(args[0], Tensor) else None)
    return dtype not in WIDE or (dtype is torch.int64 and any(type(a) is float for a in args))


@untraced
def fails(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a CPU refuses small operands in place of the real ones, with their dtypes and the order of their sizes.

    A call that would make large tensors here counts as refused.
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
    """A small value in place of an argument: zeros for integers (valid indices), ones for floats and masks (so that no
    weight or dim vanishes), small numbers in lists of sizes."""
    if isinstance(value, Tensor):
        size = [small[n] for n in value.shape]
        one = value.dtype is torch.bool or value.is_floating_point()
        return torch.full(size, one, dtype=value.dtype, device="cpu")
    if isinstance(value, (list, tuple)):
        return [min(v, 2) if type(v) is int else _standing_for(v, small) for v in value]
    return torch.device("cpu") if isinstance(value, torch.device) else value
