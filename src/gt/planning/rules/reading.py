"""Reading a call: its arguments, which operands they are, and the dims that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from gt.planning.rule import Rule
from gt.wire import instructions as wire

Row: TypeAlias = Callable[[wire.Define], Rule | None]
"""A row of the table: from a call to its rule, None where it has none."""
Table: TypeAlias = dict[str, Row]
"""Rows by the operator's name, without `aten::`, and either of one overload or of all that have no row of their own."""


def short_name(define: wire.Define) -> str:
    """`mul` for `aten::mul.Tensor`."""
    return define.op.partition("::")[2].partition(".")[0]


def argument(define: wire.Define, position: int, name: str = "", default: wire.Arg = None) -> wire.Arg:
    """An argument by its position, or by name if it was given so; `default` if it was not given."""
    if 0 <= position < len(define.args):
        return define.args[position]
    return define.kwargs.get(name, default)


def operands_in(value: wire.Arg) -> list[int]:
    """The operands (by index) that an argument names."""
    values = value if isinstance(value, list) else [value]
    return [v.index for v in values if isinstance(v, wire.In)]


def operands_of(values: Iterable[wire.Arg]) -> list[int]:
    """The operands (by index) that several arguments name."""
    return [i for value in values for i in operands_in(value)]


def operand(define: wire.Define, position: int, name: str = "") -> int | None:
    """The operand (by index) that an argument is; None if it is none."""
    value = argument(define, position, name)
    return value.index if isinstance(value, wire.In) else None


def sizes_of(define: wire.Define, index: int) -> tuple[int, ...]:
    """The sizes of an operand."""
    return define.ins[index].size


def result_size(define: wire.Define, index: int = 0) -> tuple[int, ...]:
    """The sizes of a result; `()` if it is undefined."""
    geometry = define.outs[index] if index < len(define.outs) else None
    return () if geometry is None else geometry.size


def dim(value: wire.Arg, dims: int) -> int | None:
    """A dim counted from the front; None for a value that is no dim, or of a tensor without dims."""
    return value % dims if type(value) is int and dims and -dims <= value < dims else None


def dims(value: wire.Arg, count: int) -> frozenset[int] | None:
    """Dims counted from the front; all of them for None or an empty list. None for values that are not dims."""
    if value is None or value == []:
        return frozenset(range(count))
    given = value if isinstance(value, list) else [value]
    if count == 0:
        return frozenset() if all(v in (0, -1) for v in given) else None
    found = [dim(v, count) for v in given]
    return None if None in found else frozenset(d for d in found if d is not None)


def floating(dtype: str) -> bool:
    """Whether numbers of the dtype are real floating-point numbers."""
    return dtype.startswith(("float", "bfloat"))
