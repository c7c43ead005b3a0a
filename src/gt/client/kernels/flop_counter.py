"""`FlopCounterMode` counts the parts of an operator, and a profiler names them: while one is active, composites are
decomposed as on a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from gt.client.calls import schemas
from gt.client.calls.schemas import OpOverload
from gt.client.kernels import linear
from gt.client.stream.isolation import isolated

aten = torch.ops.aten
FUSED_ON_CPUS = ("aten::lstm.input", "aten::lstm.data")
"""Composites for which a CPU has one kernel, which is not counted there either."""
NO_BACKEND = (
    "No viable backend for scaled_dot_product_attention was found. This is likely due to turning off both the math kernel"
    " and the fused kernels."
)
"""PyTorch's own words."""
SWITCH_ON = ("__enter__", "_enable_profiler")
"""The patched functions that switch on a counter or a profiler."""


def wants_parts(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an active counter or profiler would see the parts of this call on a CPU."""
    if not linear.registration.counters or schemas.op_name(op) in FUSED_ON_CPUS:
        return False
    return op is not aten.scaled_dot_product_attention.default or not is_fused(args, kwargs)


def is_fused(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a CPU takes a fused kernel for this attention: PyTorch is asked, with tensors whose elements it never reads.
    Raises RuntimeError if the program has turned off every kernel that it could take.
    """

    def stand_in(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
        return made.requires_grad_(value.requires_grad)

    with isolated():
        given = {name: stand_in(value) for name, value in kwargs.items()}
        chosen = aten._fused_sdp_choice(*[stand_in(value) for value in args], **given)
    if chosen == SDPBackend.ERROR.value:
        raise RuntimeError(NO_BACKEND)
    return bool(chosen != SDPBackend.MATH.value)


def counting(original: Callable[..., Any]) -> Callable[..., Any]:
    """The patch of the functions that switch on a counter or a profiler, and of those that switch it off."""
    change = 1 if original.__name__ in SWITCH_ON else -1

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        linear.registration.counters += change
        linear.registration.update()
        return result

    return call
