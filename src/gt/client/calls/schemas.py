"""ATen's overloads: found by name, and the facts in their schemas."""

from __future__ import annotations

import functools
from typing import Any

import torch

from gt.wire import instructions as wire

OpOverload = torch._ops.OpOverload


def overload(name: str) -> torch._ops.OpOverload:
    """The overload of a name such as `add.Tensor` or `relu`: without `aten::`, and without `.default`."""
    base, _, short = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), short or "default")  # type: ignore[no-any-return]


@functools.cache
def op_name(op: OpOverload) -> str:
    """The name of an overload, as instructions carry it: `aten::add.Tensor`."""
    name: str = op.name()
    return name


@functools.cache
def fresh_results(op: OpOverload) -> bool:
    """Whether none of an operator's results is an operand that it writes."""
    return not any(r.alias_info is not None and r.alias_info.is_write for r in op._schema.returns)


@functools.cache
def may_write(op: OpOverload) -> bool:
    """Whether an operator may write an operand. Those of batch normalisation write statistics, which no schema says."""
    return op._schema.is_mutable or "batch_norm" in op._schema.name


def written(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[frozenset[str], torch.Tensor]:
    """The operands that a call writes, by the alias sets of the schema."""
    found = {}
    for position, name, aliases in _written_arguments(op):
        value = args[position] if position < len(args) else kwargs.get(name)
        if isinstance(value, torch.Tensor):
            found[aliases] = value
    return found


@functools.cache
def _written_arguments(op: OpOverload) -> list[tuple[int, str, frozenset[str]]]:
    """Position, name and alias set of each argument that an operator writes."""
    given = [(i, a.name, a.alias_info) for i, a in enumerate(op._schema.arguments)]
    return [(i, name, frozenset(info.before_set)) for i, name, info in given if info is not None and info.is_write]


@functools.cache
def draws(op: torch._ops.OpOverload) -> bool:
    """Whether an operator draws from a random generator."""
    return torch.Tag.nondeterministic_seeded in op.tags or any(a.name == "generator" for a in op._schema.arguments)


def written_operands(op: OpOverload, args: list[wire.Arg], kwargs: dict[str, wire.Arg]) -> tuple[int, ...]:
    """The operands, by index, that a call with this template writes."""
    found: list[int] = []
    for position, name, _ in _written_arguments(op):
        value = args[position] if position < len(args) else kwargs.get(name)
        found += [v.index for v in (value if isinstance(value, list) else [value]) if isinstance(v, wire.In)]
    return tuple(found)
