"""The arguments of a call under the names of the operator's schema, as the rules of this package read them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from gt.wire import instructions as wire

Size = tuple[int, ...]


@functools.cache
def _named(op: torch._ops.OpOverload) -> tuple[list[str], dict[str, Any]]:
    """The names of an operator's arguments, and the values of those that may be left out."""
    arguments = op._schema.arguments
    return [a.name for a in arguments], {a.name: a.default_value for a in arguments if a.has_default_value()}


class NamedArguments:
    """A call's arguments by name.

    Subscripting gives an operand's size, a list of sizes for a list of operands, a literal as it is (the schema's default
    where the call leaves it out), and None for a missing argument.
    """

    def __init__(self, define: wire.Define, op: torch._ops.OpOverload) -> None:
        self._define = define
        names, defaults = _named(op)
        self._values: dict[str, Any] = {**defaults, **dict(zip(names, define.args, strict=False)), **define.kwargs}

    def __getitem__(self, name: str) -> Any:
        return self._with_sizes(self._values.get(name))

    def _with_sizes(self, value: Any) -> Any:
        if isinstance(value, wire.In):
            return self._define.ins[value.index].size
        if isinstance(value, wire.Sparse):
            return value.size
        return [self._with_sizes(v) for v in value] if isinstance(value, list) else value

    def operands(self, name: str) -> list[int]:
        """The indices of the operands that the argument names: one, those of a list, or none."""
        value = self._values.get(name)
        listed = value if isinstance(value, list) else [value]
        return [v.index for v in listed if isinstance(v, wire.In)]

    def elements(self, name: str, ins: Sequence[Any]) -> torch.Tensor | None:
        """The argument's tensor among the operands `ins` (the values of a sparse one); None where it is not a tensor."""
        value = self._values.get(name)
        if isinstance(value, wire.Sparse):
            return ins[value.parts[-1]]  # type: ignore[no-any-return]
        return ins[value.index] if isinstance(value, wire.In) else None

    def same(self, *names: str) -> bool:
        """Whether those that are present have one size."""
        return len({self[n] for n in names if self[n] is not None}) <= 1

    def have(self, size: Size, *names: str) -> bool:
        """Whether those that are present have this size."""
        return all(self[n] in (None, size) for n in names)
