"""The direct ways: the shortest code that runs a verified call which makes one result and changes nothing else.

A direct way raises whatever comes up (a view that is still missing, a poisoned operand, an error of the operator). The
call is then run again the careful way, which tells these apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gt.worker.calls.embedding_gradient import added
from gt.worker.calls.kinds import DEFAULT_DTYPE
from gt.worker.calls.prepared import PreparedCall
from gt.worker.calls.reuse import Upcoming, reusing
from gt.worker.memory import Memory, Storages
from gt.worker.operators import facts
from gt.worker.usage import COUNTED_FROM_BYTES
from gt.worker.zeroing import Zeroing

Direct = Callable[[Storages, Any], None]
"""Runs an `Op`. It takes the item for one of the client's: one id for its result, ids and numbers where they belong."""


def direct(call: PreparedCall, memory: Memory, upcoming: Upcoming) -> Direct | None:
    """The direct way of a verified call; None for a call that has none. `upcoming`: the session's instructions."""
    if not _makes_one_result(call) or call.default_dtype is not DEFAULT_DTYPE:
        return None
    if call.allocates and memory.device.type != "cpu":  # its memory is filled after the call
        return None
    way = _shortest(call) if call.fills else _zeroed(_shortest(call), memory.zeroing)
    if call.checks is not None and call.checks.reads_elements:
        way = _unshared(way, memory.zeroing)
    if call.sizes[0] < COUNTED_FROM_BYTES:
        return way
    way = _counted(_unless(reusing(call, upcoming), way), memory, call.sizes[0])
    return _unless(added(call, upcoming, memory.device), way)


def _makes_one_result(call: PreparedCall) -> bool:
    """Whether the operator returns one tensor, that is the result, and nothing else is changed: no operand, no generator."""
    op = call.op
    single = isinstance(op, torch._ops.OpOverload) and facts.returns_one_tensor(op)
    return single and not (call.written or call.draws or any(call.copies) or call.copied)


def _zeroed(way: Direct, zeroing: Zeroing) -> Direct:
    """For calls that may leave bytes of their result unwritten."""

    def run(storages: Storages, item: Any) -> None:
        if not zeroing.needed:
            return way(storages, item)
        with zeroing:
            way(storages, item)

    return run


def _unshared(way: Direct, zeroing: Zeroing) -> Direct:
    """For calls whose operands' elements must be checked on a worker that has had several sessions."""

    def run(storages: Storages, item: Any) -> None:
        if zeroing.needed:
            raise RuntimeError("the elements of its operands must be checked")
        way(storages, item)

    return run


def _unless(other: Callable[[Storages, Any], bool] | None, way: Direct) -> Direct:
    """Tries another way first, which returns whether it could run the call."""
    if other is None:
        return way

    def run(storages: Storages, item: Any) -> None:
        if not other(storages, item):
            way(storages, item)

    return run


def _counted(way: Direct, memory: Memory, size_bytes: int) -> Direct:
    """For calls whose result counts towards the session's peak."""
    count = memory.usage.count

    def run(storages: Storages, item: Any) -> None:
        way(storages, item)
        count(item.out, size_bytes)

    return run


def _shortest(call: PreparedCall) -> Direct:
    raw, ins, (out,), arguments = call.raw, call.ins, call.out_numbers, call.arguments
    fill, convert, constants, kwargs = arguments.fill, arguments.convert, arguments.constants, arguments.kwargs

    def two(storages: Storages, item: Any) -> None:
        a, b = item.args
        storages[item.out] = {out: raw(storages[a][ins[0]], storages[b][ins[1]])}

    def scale(storages: Storages, item: Any) -> None:
        a, number = item.args
        storages[item.out] = {out: raw(storages[a][ins[0]], convert(number))}

    def one(storages: Storages, item: Any) -> None:
        (a,) = item.args
        storages[item.out] = {out: raw(storages[a][ins[0]], *constants, **kwargs)}

    def any_number(storages: Storages, item: Any) -> None:
        given = item.args
        args, kwargs = fill([storages[i][g] for i, g in zip(given, ins, strict=False)], given[len(ins) :])
        storages[item.out] = {out: raw(*args, **kwargs)}

    if call.operands_only and len(ins) == 2:
        return two
    if arguments.are_operand_and_number:
        return scale
    return one if arguments.are_operands_then_constants and len(ins) == 1 else any_number
