"""Reading the arguments of a call: the ids of its operands, its numbers, and the key that identifies the call.

Keys hold the geometries of the operands and every literal that may shape a result. Numbers that only enter the arithmetic
are represented by their types alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gt.client.calls.schemas import OpOverload
from gt.client.stream.operands import operand
from gt.errors import RefusedError
from gt.wire import instructions as wire

Tensor = torch.Tensor
Signature = tuple[list[int], list[Any], tuple[Any, ...]]
"""Ids of the operands, numbers as they travel, and the key."""
VARYING = {"Tensor", "number", "float", "Optional[Tensor]", "Optional[number]", "Optional[float]", "List[number]"}
"""Types of the positional arguments that may be numbers which only enter the arithmetic."""
SHAPED_BY_NUMBERS = {"aten::arange", "aten::range", "aten::arange.start", "aten::arange.start_step"} | {
    f"aten::_upsample_{kind}2d_aa{of}" for kind in ("bilinear", "bicubic", "lanczos") for of in ("", "_backward")
}
"""Operators whose numbers decide the size of the result, or have to fit it."""
RULED_BY_NUMBERS = {
    "aten::linalg_vector_norm": "ord",
    "aten::_foreach_norm": "ord",
    "aten::norm": "p",
}
"""A number that decides how a call can be sharded, by operator: it is part of the definition."""


class LocalOperandError(Exception):
    """A CPU tensor stands among the operands."""


def varying(op: OpOverload) -> frozenset[int]:
    """Positions of the arguments that may be numbers without influence on the result's shape."""
    if op._schema.name in SHAPED_BY_NUMBERS:
        return frozenset()
    fixed = RULED_BY_NUMBERS.get(op._schema.name)
    return frozenset(
        i for i, a in enumerate(op._schema.arguments) if str(a.type) in VARYING and not a.kwarg_only and a.name != fixed
    )


def reader(op: OpOverload) -> Callable[[tuple[Any, ...], dict[str, Any]], Signature]:
    """The function that reads the arguments of an operator's calls. It raises LocalOperandError for a CPU tensor."""
    vary = varying(op)

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature:
        ids: list[int] = []
        key: list[Any] = []
        numbers: list[Any] = []
        for position, a in enumerate(args):
            kind = type(a)
            if kind is Tensor or isinstance(a, Tensor):
                found = a._gt  # type: ignore[attr-defined]
                if found[2] != id(a):
                    found = _looked_up(a)
                ids.append(found[0])
                key.append(found[1])
            elif (kind is float or kind is int) and position in vary:
                numbers.append(a)
                key.append(kind)
            elif kind is list or kind is tuple:
                _read_list(a, position in vary, ids, key, numbers)
            elif kind is complex and position in vary:
                numbers.append(wire.Complex(a.real, a.imag))
                key.append(kind)
            elif kind is float:  # it may equal an integer that gives another result (`arange`)
                key.append((kind, a))
            else:
                key.append(a)
        if kwargs:
            _read_named(kwargs, ids, key, numbers)
        return ids, numbers, tuple(key)

    return read


def _looked_up(tensor: Tensor) -> tuple[int, Any, int]:
    try:
        return operand(tensor)
    except (RuntimeError, RefusedError):
        if tensor.device.type != "remote":
            raise LocalOperandError from None
        raise


def _read_named(kwargs: dict[str, Any], ids: list[int], key: list[Any], numbers: list[Any]) -> None:
    for name, value in kwargs.items():
        key.append(name)
        if isinstance(value, Tensor):
            number, spec, _ = _looked_up(value)
            ids.append(number)
            key.append(spec)
        elif type(value) is list:
            _read_list(value, False, ids, key, numbers)
        elif type(value) is float:
            numbers.append(value)
            key.append(float)
        else:
            key.append(value)
            key.append(type(value))


def _read_list(values: Any, vary: bool, ids: list[int], key: list[Any], numbers: list[Any]) -> None:
    key.append(len(values))
    for value in values:
        if isinstance(value, Tensor):
            number, spec, owner = value._gt  # type: ignore[attr-defined]
            if owner != id(value):
                number, spec, _ = _looked_up(value)
            ids.append(number)
            key.append(spec)
        elif vary and (type(value) is float or type(value) is int):
            numbers.append(value)
            key.append(type(value))
        elif vary and type(value) is complex:
            numbers.append(wire.Complex(value.real, value.imag))
            key.append(complex)
        else:
            key.append(value)
            key.append(type(value))
