"""The checks that GT makes in place of PyTorch's kernels: sizes that must fit each other, indices that must be in range.

In PyTorch most of these operands come from its own forward pass, so the kernels do not check them; a peer may send
anything. `sizes` and `strides` are consulted once for each definition, `elements` in every run on a worker that has had
several sessions. docs/decisions/015-foreign-memory.md.
"""

from __future__ import annotations

import torch

from gt.wire import instructions as wire
from gt.worker.checks.elements import ELEMENTS, Elements
from gt.worker.checks.named import NamedArguments
from gt.worker.checks.sizes import SIZES, Rule
from gt.worker.checks.strides import overlapping


class CallChecks:
    """The checks of one call. Raises RuntimeError where its sizes do not fit each other."""

    __slots__ = ("_args", "_elements", "_name", "overlapping")

    def __init__(self, define: wire.Define, op: torch._ops.OpOverload) -> None:
        self._name = define.op
        base = define.op.removeprefix("aten::").partition(".")[0]
        self._elements = ELEMENTS.get(base)
        self._args = NamedArguments(define, op)
        rule = SIZES.get(base)
        if rule is not None and not _holds(rule, self._args):
            raise RuntimeError(f"{self._name}: the sizes of its operands do not fit each other")
        self.overlapping = overlapping(base, define, self._args)
        """Operands (by index) whose elements share memory, and which the kernel must get as copies."""

    @property
    def reads_elements(self) -> bool:
        """Whether `check_elements` has anything to check."""
        return self._elements is not None

    def check_elements(self, ins: Elements) -> None:
        """Raises IndexError where an element of an operand is an index outside the tensor that it indexes."""
        if self._elements is not None and not self._elements(self._args, ins):
            raise IndexError(f"{self._name}: an index is out of range")


def _holds(rule: Rule, args: NamedArguments) -> bool:
    try:
        return rule(args)
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # an argument of a wrong type
        return False
