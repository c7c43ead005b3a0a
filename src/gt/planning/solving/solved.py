"""What is decided about a call while its groups are solved one by one."""

from __future__ import annotations

from gt.placement.digit import OfStorage
from gt.planning.plan import Choice, Conversion, CutBack, Digit
from gt.planning.rule import Rule
from gt.planning.state import State
from gt.wire.instructions import Define, Geometry


class Solved:
    """What is decided about a call while its groups are solved one by one."""

    def __init__(self, define: Define, operands: list[State], rule: Rule, sizes: tuple[int, ...]) -> None:
        self.define = define
        self.operands = operands
        self.rule = rule
        self.sizes = sizes
        """The sizes of the mesh's axes."""
        self.choices: list[Choice] = []
        self.once: dict[int, frozenset[int]] = {}
        """By axis, for the group that is solved: the operands of which only one rank may have the elements."""
        self.conversions: list[Conversion] = []
        self.reduces: dict[int, list[int]] = {}
        self.local_ins: dict[int, Geometry] = {}
        self.local_outs: dict[int, Geometry] = {}
        self.placed: dict[int, OfStorage] = {}
        self.cuts: list[CutBack] = []

    def lowers(self) -> bool:
        """Whether a label is sharded along which the local call alone would be wrong."""
        lowered = self.rule.lowered
        return any(isinstance(c, Digit) and c.label in lowered for c in self.choices[0])
