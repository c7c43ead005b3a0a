"""What a rule says of a call: which dims its operands and results share, and what becomes of it when one is sharded.

Dims that belong together have the same *label*, as in einsum: `mk,kn->mn`. A label may be sharded, by a digit of its index,
along an axis of the mesh. Then every operand with the label has to be sharded so, every result with it is, and a result
without it is a Partial if the call sums over the label, else replicated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from gt.placement.digit import Partial
from gt.wire.instructions import Arg, Geometry

Label: TypeAlias = Hashable
Labels: TypeAlias = tuple[Label | None, ...]
"""One label per dim; None for a dim that is never sharded (also one of size 1 that is broadcast)."""
Arguments: TypeAlias = tuple[list[Arg], dict[str, Arg]]
Localise: TypeAlias = Callable[[list[Arg], dict[str, Arg], Mapping[int, Geometry], Mapping[int, Geometry]], Arguments]
"""From a call's arguments and the local geometries of its operands and results to the local call's arguments."""
NOTHING: frozenset[Label] = frozenset()


@dataclass(frozen=True)
class LabelGroup:
    """Operands and results (by index) that share labels. Most calls have one group; those over lists one for each entry."""

    ins: Mapping[int, Labels]
    outs: Mapping[int, Labels]
    may_shard: frozenset[Label]
    sums: Mapping[int, frozenset[Label]] = field(default_factory=dict)
    """By result: the labels that the call reduces over; sharding one makes the result a Partial of the kind `partial`."""
    partial: Partial = Partial.SUM
    passes: frozenset[Partial] = frozenset()
    """Kinds of Partial that the group computes with unreduced, if all its operands are of that kind: it is linear in them
    together (`a + b`, `2 * a`)."""
    linear: tuple[frozenset[int], ...] = ()
    """Where it is not linear in all operands together: the sets of those in which it is while the others stay the same
    (`a * b`: in `a`, and in `b`)."""
    written: frozenset[int] = frozenset()
    """Operands that the call writes: they are never copies."""
    unread: frozenset[int] = frozenset()
    """Operands whose elements do not matter: a Partial may stay one."""
    contiguous: frozenset[Label] = frozenset()
    """Labels of which every rank must have one run, as the rows of a vocabulary."""
    once: Mapping[int, frozenset[Label]] = field(default_factory=dict)
    """By operand: labels under whose sharding only one rank may add it, as a bias to a product that is summed over ranks;
    or it is a Partial itself, as it has to be if it is written."""


@dataclass(frozen=True)
class Rule:
    """How a call may be sharded. Every operand and every result is in exactly one group."""

    groups: tuple[LabelGroup, ...]
    localise: Localise | None = None
    """Where arguments of the local call differ, such as sizes."""
    reads: bool = True
    """Whether elements of the operands matter, not just their geometry (`zeros_like`)."""
    lowering: str = ""
    """The name of a lowering (`lowerings`), for calls that become several instructions when they are sharded."""
    lowered: frozenset[Label] = NOTHING
    """The labels whose sharding needs the lowering; under that of others alone the local call is the call itself."""
