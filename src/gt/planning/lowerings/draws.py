"""Random numbers: every worker draws all of them and keeps its own."""

from __future__ import annotations

from typing import Any

import msgspec

from gt.planning.geometry import dense
from gt.planning.lowerings.builder import Builder
from gt.planning.plan import Lowered, Ref, RunStep
from gt.wire import instructions as wire
from gt.wire.instructions import Define, In


def dropout(b: Builder) -> Lowered | None:
    """Dropout in training: ones are dropped from, and this worker's part multiplies the input."""
    whole, kept, out = b.whole_result(0), b.whole_result(1), b.result(0)
    dims = len(whole.size)
    full, full_mask = dense(whole.size, whole.dtype), dense(kept.size, kept.dtype)
    ones = b.filled("ones", full)
    drawn, drawn_mask = b.temporary(), b.temporary()
    define = Define(0, b.original.op, b.original.args, {}, [full], [full, full_mask], draws=True)
    numbers = tuple(range(_numbers(b.original)))
    b.steps.append(RunStep(define, (ones[0],), (drawn, drawn_mask), numbers))
    own = b.slice((drawn, full), dims)
    b.slice((drawn_mask, full_mask), dims, Ref("out", 1))
    b.run("mul.Tensor", [In(0), In(1)], [(Ref("in", 0), b.local.ins[0]), own], out, Ref("out", 0))
    return b.lowered()


def draw(b: Builder) -> Lowered | None:
    """Draws into an operand (`normal_`), or makes a tensor like it (`randn_like`)."""
    original = b.original
    numbers = tuple(range(_numbers(original)))
    full = dense(original.ins[0].size, original.ins[0].dtype)
    dims = len(full.size)
    blank = b.filled("empty.memory_format", full)
    if original.writes:
        define = msgspec.structs.replace(original, call=0, ins=[full])
        b.steps.append(RunStep(define, (blank[0],), (), numbers))
        own = b.slice(blank, dims)
        copy = Define(0, "aten::copy_", [In(0), In(1)], {}, [b.local.ins[0], own[1]], [], writes=(0,))
        b.steps.append(RunStep(copy, (Ref("in", 0), own[0]), ()))
        return b.lowered()
    whole, out = b.whole_result(0), b.result(0)
    made = b.temporary()
    define = msgspec.structs.replace(original, call=0, ins=[full], outs=[dense(whole.size, whole.dtype)])
    b.steps.append(RunStep(define, (blank[0],), (made,), numbers))
    own = b.slice((made, dense(whole.size, whole.dtype)), dims)
    b.run("clone", [In(0)], [own], out, Ref("out", 0))
    return b.lowered()


def _numbers(define: Define) -> int:
    """How many numbers vary from call to call."""
    flat: list[Any] = []
    for value in (*define.args, *define.kwargs.values()):
        flat += value if isinstance(value, list) else [value]
    return sum(isinstance(value, wire.Number) for value in flat)
