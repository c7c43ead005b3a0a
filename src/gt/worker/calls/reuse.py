"""Sums and products whose result gets the memory of an operand that is freed right after them.

Autograd adds the gradients of a tensor that is used twice, in place if nobody else has the first one. On a client somebody
does: what tells the worker that a storage is freed. So both are freed after the sum, and the worker, which sees that coming,
makes the sum in the memory of one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

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
    """The instructions that a session runs, for those that depend on what comes next."""

    def __init__(self) -> None:
        self.items: Sequence[Any] = ()
        self.position = 0
        """Where to begin to look."""

    def freed_after(self, item: Any, most: int) -> list[int]:
        """The ids, at most so many, that are freed directly after an instruction which is being run."""
        freed: list[int] = []
        for at in range(self.position, len(self.items)):
            if self.items[at] is item:
                for id in self.items[at + 1 : at + 1 + most]:
                    if type(id) is not int:
                        break
                    freed.append(id)
                break
        return freed


def _holders(tensor: torch.Tensor) -> tuple[int, ...]:
    """How often a tensor and its storage are referred to."""
    storage = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)  # type: ignore[attr-defined]
    return sys.getrefcount(tensor), tensor._use_count(), storage  # type: ignore[attr-defined]


_sample = {0: torch.empty(1)}
ONLY_HERE = _holders(_sample[0])
"""Those of a tensor that nobody has but a dict: no graph, no answer on its way, no collective."""


def _is_only_here(views: Any, number: int) -> bool:
    """Whether nobody has a storage but the session's memory. Drops its other views, as it is freed next."""
    if type(views) is not dict or number not in views:
        return False
    for other in [n for n in views if n != number]:
        del views[other]
    return _holders(views[number]) == ONLY_HERE


def reusing(call: PreparedCall, upcoming: Upcoming) -> Callable[[Storages, Any], bool] | None:
    """What runs a call in the memory of an operand if that can be done, and says so; None for a call where it never can."""
    into = INTO.get(call.name)
    candidates = [i for i, number in enumerate(call.ins) if number == call.out_numbers[0]]
    if into is None or len(call.ins) != 2 or not call.operands_only or not candidates:
        return None
    raw, ins, (out,), (size,) = into._op, call.ins, call.out_numbers, call.sizes

    def run(storages: Storages, item: Any) -> bool:
        freed = upcoming.freed_after(item, 2)
        for index in candidates if freed else ():
            id = item.args[index]
            if id in freed and _is_only_here(storages[id], out) and _fills_storage(storages[id][out], size):
                raw(*(storages[i][g] for i, g in zip(item.args, ins, strict=True)), out=storages[id][out])
                storages[item.out] = storages.pop(id)
                return True
        return False

    return run


def _fills_storage(tensor: torch.Tensor, size_bytes: int) -> bool:
    return tensor.untyped_storage().nbytes() == size_bytes
