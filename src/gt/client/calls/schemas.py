"""ATen's overloads: found by name, and the facts in their schemas."""

from __future__ import annotations

from typing import Any

import torch

from gt.wire import instructions as wire

OpOverload = torch._ops.OpOverload


def overload(name: str) -> torch._ops.OpOverload:
    """The overload of a name such as `add.Tensor` or `relu`: without `aten::`, and without `.default`."""
    base, _, short = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), short or "default")  # type: ignore[no-any-return]


def op_name(op: OpOverload) -> str:
    """The name of an overload, as instructions carry it: `aten::add.Tensor`."""
    name: str = op.name()
    return name


def fresh_results(op: OpOverload) -> bool:
    """Whether none of an operator's results is an operand that it writes."""
    return not any(r.alias_info is not None and r.alias_info.is_write for r in op._schema.returns)


def written(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[frozenset[str], torch.Tensor]:
    """The operands that a call writes, by the alias sets of the schema."""
    found = {}
    for position, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            if isinstance(value, torch.Tensor):
                found[frozenset(argument.alias_info.before_set)] = value
    return found


def draws(op: torch._ops.OpOverload) -> bool:
    """Whether an operator draws from a random generator."""
    return torch.Tag.nondeterministic_seeded in op.tags or any(a.name == "generator" for a in op._schema.arguments)


def written_operands(op: OpOverload, args: list[wire.Arg], kwargs: dict[str, wire.Arg]) -> tuple[int, ...]:
    """The operands, by index, that a call with this template writes."""
    found: list[int] = []
    for position, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            found += [v.index for v in (value if isinstance(value, list) else [value]) if isinstance(v, wire.In)]
    return tuple(found)
