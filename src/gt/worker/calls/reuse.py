"""Sums and products whose result gets the memory of an operand that is freed right after them.

Autograd adds the gradients of a tensor that is used twice, in place if nobody else has the first one. On a client somebody
does: what tells the worker that a storage is freed. So both are freed after the sum, and the worker, which sees that coming,
makes the sum in the memory of one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch

from gt.wire import instructions as wire
from gt.worker.calls.prepared import PreparedCall
from gt.worker.memory import Storages

aten = torch.ops.aten
INTO = {
    "aten::add.Tensor": aten.add.out,
    "aten::sub.Tensor": aten.sub.out,
    "aten::mul.Tensor": aten.mul.out,
    "aten::div.Tensor": aten.div.out,
}
"""The operators, and what writes their result into memory that is there. They round exactly: the bits are the same."""


class Upcoming:
    """The instructions that a session runs, for those that depend on what comes next.

    `calls`, `ways`: the session's calls and their direct ways, by number.
    """

    def __init__(self, calls: Mapping[int, Any], ways: Container[int]) -> None:
        self.items: Sequence[Any] = ()
        self.position = 0
        """Where to begin to look."""
        self.made: wire.Op | None = None
        """A sum to come that has been made already, with an operation before it."""
        self._calls = calls
        self._ways = ways

    def freed_after(self, item: Any, most: int) -> list[int]:
        """The ids, at most so many, that are freed directly after an instruction which is being run or is to come."""
        at = self._after(item)
        return [*takewhile(lambda next: type(next) is int, self.items[at : at + most])]

    def sum_after(self, item: wire.Op) -> tuple[wire.Op, PreparedCall] | None:
        """The sum of the result of an operation and another tensor, if that is all that comes next besides freeing."""
        at = next((at for at in range(self._after(item), len(self.items)) if type(self.items[at]) is not int), None)
        found = None if at is None else self.items[at]
        if type(found) is not wire.Op or found.call not in self._ways or item.out not in found.args:
            return None
        call = self._calls[found.call]
        return (found, call) if call.name == "aten::add.Tensor" and _candidates(call) else None

    def _after(self, item: Any) -> int:
        """Where the instruction after an item is."""
        at = (at for at in range(self.position, len(self.items)) if self.items[at] is item)
        return next(at, len(self.items)) + 1


def _holders(tensor: torch.Tensor) -> tuple[int, ...]:
    """How often a tensor and its storage are referred to."""
    storage = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)  # type: ignore[attr-defined]
    return sys.getrefcount(tensor), tensor._use_count(), storage  # type: ignore[attr-defined]


_sample = {0: torch.empty(1)}
ONLY_HERE = _holders(_sample[0])
"""Those of a tensor that nobody has but a dict: no graph, no answer on its way, no collective."""


def can_be_taken(views: Any, number: int, size_bytes: int) -> bool:
    """Whether the memory of a storage that is freed next can be a result's: it has that size, and nobody else holds it."""
    return _is_only_here(views, number) and views[number].untyped_storage().nbytes() == size_bytes


def _is_only_here(views: Any, number: int) -> bool:
    """Whether nobody has a storage but the session's memory. Drops its other views, as it is freed next."""
    if type(views) is not dict or number not in views:
        return False
    for other in [n for n in views if n != number]:
        del views[other]
    return _holders(views[number]) == ONLY_HERE


def _candidates(call: PreparedCall) -> list[int]:
    """The operands, by index, whose memory the result may get."""
    if call.name not in INTO or len(call.ins) != 2 or not call.operands_only:
        return []
    return [i for i, number in enumerate(call.ins) if number == call.out_numbers[0]]


def reusing(call: PreparedCall, upcoming: Upcoming) -> Callable[[Storages, Any], bool] | None:
    """What runs a call in the memory of an operand if that can be done, and says so; None for a call where it never can."""
    candidates = _candidates(call)
    if not candidates:
        return None
    raw, ins, (out,), (size,) = INTO[call.name]._op, call.ins, call.out_numbers, call.sizes

    def run(storages: Storages, item: Any) -> bool:
        if upcoming.made is item:
            upcoming.made = None
            return True
        freed = upcoming.freed_after(item, 2)
        a, b = item.args
        for index in candidates if freed else ():
            id = item.args[index]
            if id in freed and can_be_taken(storages[id], out, size):
                raw(storages[a][ins[0]], storages[b][ins[1]], out=storages[id][out])
                storages[item.out] = storages.pop(id)
                return True
        return False

    return run
