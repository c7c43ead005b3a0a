"""Defined calls as the kernels keep them: what a call makes and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gt.client.stream.geometry import TensorSpec


@dataclass(slots=True, frozen=True)
class Fresh:
    """A result that the call makes; `index` among all that it makes."""

    index: int


@dataclass(slots=True, frozen=True)
class WrittenOperand:
    """A result that is an operand which the call writes; `position` among its operands."""

    position: int


@dataclass(slots=True)
class DefinedCall:
    """A defined call. `outs`: the geometry of each fresh result, nested as the operator returns them."""

    number: int
    outs: Any
    single: TensorSpec | None
    """The only result, if there is just one and it is fresh: the fast path."""
    returns: Any
    """How written operands and fresh results make up what the operator returns."""
    in_place: bool = False
    """Whether the call makes nothing and returns its first operand."""
    large_bytes: int = 0
    """The bytes of its results if they are many: then it has no `single`, and its kernel counts them (`session.room`)."""
    plain: TensorSpec | None = field(init=False)
    """`single`, if it is contiguous."""
    writes: bool = field(init=False)
    """Whether it returns a written operand."""

    def __post_init__(self) -> None:
        self.plain = self.single if self.single is not None and self.single.contiguous else None
        self.writes = type(self.returns) is not Fresh and _has_written(self.returns)


def _has_written(shape: Any) -> bool:
    return isinstance(shape, WrittenOperand) or (isinstance(shape, (list, tuple)) and any(_has_written(s) for s in shape))


class Unforeseen:
    """The entry in a cache for a call whose results only the worker knows."""

    single = plain = None


UNFORESEEN = Unforeseen()
