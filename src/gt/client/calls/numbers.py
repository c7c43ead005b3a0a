"""Strides of results where one of two operands is a number.

PyTorch's kernels then order the dims of the result by the tensor's strides. Its inference first asks whether the tensor is
contiguous or channels-last, for which strides of dims of one element do not count. A norm or a convolution that gets the
result chooses its order of additions by them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gt.client.calls.schemas import overload
from gt.client.stream import geometry

NAMES = (
    *(f"{name}.Tensor" for name in ("add", "sub", "mul", "div")),
    *(f"{name}.Scalar" for name in ("add", "sub", "mul", "div", "rsub", "remainder", "fmod")),
    *(f"{name}.Scalar" for name in ("eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or", "bitwise_xor")),
    "div.Tensor_mode",
    "remainder.Scalar_Tensor",
    "bitwise_left_shift.Tensor_Scalar",
    "bitwise_right_shift.Tensor_Scalar",
    "__lshift__.Scalar",
    "__rshift__.Scalar",
    "xlogy.Scalar_Other",
    "xlogy.Scalar_Self",
)
"""Operators that take a tensor and a number as their two operands."""


def strides(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Those of a dense result whose dims are in memory in the order of a tensor's.

    The order is that of `TensorIteratorBase::reorder_dimensions`: sorted by strides, then by sizes; dims of stride 0 may be
    anywhere.
    """
    order = list(reversed(range(len(size))))
    for place in range(1, len(order)):
        for before in range(place - 1, -1, -1):
            compared = _compared(order[before], order[place], size, stride)
            if compared < 0:
                break
            if compared > 0:
                order[before], order[place] = order[place], order[before]
                place = before
    return geometry.dense_stride(size, tuple(reversed(order)))


def _compared(one: int, other: int, size: Sequence[int], stride: Sequence[int]) -> int:
    """Positive where the dim `one` is outside of `other`, negative where it is inside, 0 where both orders are right."""
    if not stride[one] or not stride[other]:
        return 0
    if stride[one] != stride[other]:
        return stride[one] - stride[other]
    return int(size[one] > size[other])


def _with_number(name: str) -> Callable[..., Any]:
    op = overload(name)

    def infer(*args: Any, **kwargs: Any) -> Any:
        result = op(*args, **kwargs)
        tensors = [operand for operand in args[:2] if isinstance(operand, torch.Tensor)]
        if len(tensors) == 2 or tensors[0].dim() < 2 or not result.numel():
            return result
        return result.new_empty_strided(result.shape, strides(tensors[0].shape, tensors[0].stride()))

    return infer


ROWS = {f"aten::{name}": _with_number(name) for name in NAMES}
