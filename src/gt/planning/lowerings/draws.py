"""Random numbers: every worker draws all of them and keeps its own.

Kernels draw in the order of the memory, so what is drawn into has the strides that the operand has on one worker.
"""

from __future__ import annotations

import msgspec

from gt.planning.geometry import by_itself
from gt.planning.lowerings.builder import Builder
from gt.planning.plan import Lowered, Ref, RunStep
from gt.wire.instructions import Define, In


def dropout(b: Builder) -> Lowered | None:
    """Dropout in training: ones are dropped from, and this worker's part multiplies the input."""
    whole, kept, out = b.whole_result(0), b.whole_result(1), b.result(0)
    dims = len(whole.size)
    full, full_mask = by_itself(whole), by_itself(kept)
    ones = b.filled("ones", by_itself(b.original.ins[0]))
    drawn, drawn_mask = b.temporary(), b.temporary()
    define = Define(0, b.original.op, b.original.args, {}, [ones[1]], [full, full_mask], draws=True)
    b.steps.append(RunStep(define, (ones[0],), (drawn, drawn_mask), b.numbers))
    own = b.slice((drawn, full), dims)
    own_mask = b.slice((drawn_mask, full_mask), dims)
    b.run("clone", [In(0)], [own_mask], b.result(1), Ref("out", 1))
    b.run("mul.Tensor", [In(0), In(1)], [(Ref("in", 0), b.local.ins[0]), own], out, Ref("out", 0))
    return b.lowered()


def draw(b: Builder) -> Lowered | None:
    """Draws into an operand (`normal_`), or makes a tensor like it (`randn_like`)."""
    original = b.original
    full = by_itself(original.ins[0])
    dims = len(full.size)
    blank = b.filled("empty.memory_format", full)
    if original.writes:
        define = msgspec.structs.replace(original, call=0, ins=[full])
        b.steps.append(RunStep(define, (blank[0],), (), b.numbers))
        own = b.slice(blank, dims)
        copy = Define(0, "aten::copy_", [In(0), In(1)], {}, [b.local.ins[0], own[1]], [], writes=(0,))
        b.steps.append(RunStep(copy, (Ref("in", 0), own[0]), ()))
        return b.lowered()
    whole, out = b.whole_result(0), b.result(0)
    made = b.temporary()
    define = msgspec.structs.replace(original, call=0, ins=[full], outs=[by_itself(whole)])
    b.steps.append(RunStep(define, (blank[0],), (made,), b.numbers))
    own = b.slice((made, by_itself(whole)), dims)
    b.run("clone", [In(0)], [own], out, Ref("out", 0))
    return b.lowered()
