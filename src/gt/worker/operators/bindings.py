"""PyTorch's Python functions for the commonest operators: a call takes 0.3 to 1.2 us less than the operator's own callable.

A row belongs here if the function, given the operator's arguments in the schema's order, calls that very overload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_PLAIN = """
    abs.default add.Tensor addmm.default bmm.default cat.default clone.default cos.default div.Tensor embedding.default
    eq.Scalar exp.default mean.dim mm.default mul.Tensor neg.default pow.Tensor_Scalar relu.default rsqrt.default
    sigmoid.default sin.default sqrt.default sub.Tensor sum.dim_IntList tanh.default
"""
_OF_NN = "gelu.default linear.default silu.default"


def _functions(names: str, module: Any) -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    split = [name.split(".") for name in names.split()]
    return {getattr(getattr(torch.ops.aten, base), overload): getattr(module, base) for base, overload in split}


FUNCTIONS = {
    **_functions(_PLAIN, torch._C._VariableFunctions),  # type: ignore[attr-defined]
    **_functions(_OF_NN, torch._C._nn),
}


def quickest(op: Any) -> Callable[..., Any]:
    """The quickest callable of an operator of the table: without PyTorch's Python layer around it."""
    return FUNCTIONS.get(op) or getattr(op, "_op", op)
