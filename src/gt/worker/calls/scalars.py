"""The numbers of a call, as Python numbers or, where the bits are the same and it is quicker, as tensors of no dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gt.wire import instructions as wire

Convert = Callable[[Any], Any]
"""From a number as it travels to the argument that the operator gets."""
MAX_TENSORS = 64
"""Tensors that are kept of one definition's numbers."""
EXACT_INTEGERS = 1 << 24
PROMOTED = {"float32": torch.float32, "float64": torch.float64}
"""Dtypes in which a number and a tensor of no dimension give the same bits."""
TAKE_NUMBERS = {f"aten::{name}.Tensor" for name in ("add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_")}
"""Operators whose second argument is a tensor, and for which PyTorch takes a number as well."""


def number(value: Any) -> Any:
    """A number as PyTorch takes it."""
    return complex(value.real, value.imag) if type(value) is wire.Complex else value


def converter(define: wire.Define, device: torch.device) -> Convert:
    """The conversion of numbers among a call's positional arguments."""
    takes = device.type == "cpu" and define.op in TAKE_NUMBERS and len(define.args) == 2 and define.args[0] == wire.In(0)
    dtype = PROMOTED.get(define.ins[0].dtype) if takes else None
    return number if dtype is None else as_tensor(dtype)


def as_tensor(dtype: torch.dtype) -> Convert:
    """A number as a tensor of `dtype`, made once: PyTorch would make one in each call, for longer than it computes."""
    made: dict[float, torch.Tensor] = {}

    def convert(value: Any) -> Any:
        found = made.get(value)
        if found is None:
            if not value or not (type(value) is float or (type(value) is int and abs(value) <= EXACT_INTEGERS)):
                return number(value)  # 0.0 and -0.0 are one key
            if len(made) >= MAX_TENSORS:
                made.clear()
            found = made[value] = torch.tensor(value, dtype=dtype)
        return found

    return convert
