"""A result gets the memory of an operand that is freed right after the call, and of no other."""

from __future__ import annotations

import math
import weakref

import pytest
import torch

from gt.wire import instructions as wire
from gt.worker.execute import Worker
from tests.unit.test_worker_calls import ask

WHOLE = wire.Geometry((256, 256), (256, 1), 0, "float32")
TURNED = wire.Geometry((256, 256), (1, 256), 0, "float32")
ROW = wire.Geometry((256,), (1,), 0, "float32")
FLAT = wire.Geometry((257 * 256,), (1,), 0, "float32")
LONG = wire.Geometry((256, 256), (257, 1), 0, "float32")
"""The first columns of rows in `FLAT`."""


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def opened(
    name: str, geometries: tuple[wire.Geometry, wire.Geometry], before: list[wire.Instruction]
) -> tuple[Worker, list[torch.Tensor]]:
    """A worker that has two operands, 1 and 2, and has run a call of theirs before; and the operands.

    What they are cloned from is 21 and 22, by the calls 11 and 12.
    """
    worker = Worker("cpu")
    torch.manual_seed(0)
    items, frames, seen = [], [], []
    for id, g in enumerate(geometries, 1):
        storage = torch.randn(257 * 256)[: 257 * 256 if g is LONG else math.prod(g.size)]
        seen.append(storage.as_strided(g.size, g.stride))
        own = FLAT if g is LONG else g
        clone = wire.Define(10 + id, "aten::clone", [wire.In(0)], {}, [own], [own])
        items += [wire.Upload(20 + id, own, id - 1, 0), clone, wire.Op(10 + id, id, (20 + id,), 0)]
        frames.append(bits(storage if g is LONG else seen[-1]))
    define = wire.Define(1, f"aten::{name}.Tensor", [wire.In(0), wire.In(1)], {}, list(geometries), [WHOLE])
    ask(worker, [*items, define, wire.Op(1, 9, (1, 2), 0), 9, wire.Op(1, 9, (1, 2), 0), 9, *before], frames)
    return worker, seen


def run(
    name: str, geometries: tuple[wire.Geometry, wire.Geometry], rest: list[wire.Instruction], before: list[wire.Instruction]
) -> tuple[int | None, list[bytes], list[torch.Tensor]]:
    """Run `rest` around `Op(name, 3, (1, 2))` on a worker that has run such a call before.

    Returns the storage whose memory the result 3 has got, the answers' bytes, and the operands.
    """
    worker, seen = opened(name, geometries, before)
    (session,) = worker.host.sessions.values()
    at = {id: next(iter(session.memory.storages[id].values())).data_ptr() for id in (1, 2)}
    _, data = ask(worker, rest, [])
    made = session.memory.storages[3][session.memory.number(WHOLE)].data_ptr()
    return next((id for id in at if at[id] == made), None), data, seen


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize(("freed", "taken"), [([1], 1), ([2], 2), ([1, 2], 1), ([2, 1], 1), ([], None)])
def test_the_result_gets_the_memory_of_a_freed_operand_and_pytorchs_bits(name: str, freed: list[int], taken: int) -> None:
    kept = [wire.Fetch(n, n, WHOLE) for n in (1, 2) if n not in freed]
    got, data, (a, b) = run(name, (WHOLE, WHOLE), [wire.Op(1, 3, (1, 2), 0), *freed, wire.Fetch(3, 3, WHOLE), *kept], [])
    assert got == taken
    expected = [getattr(torch, name)(a, b), *(x for n, x in ((1, a), (2, b)) if n not in freed)]
    assert data == [bits(x) for x in expected]


@pytest.mark.parametrize(
    ("geometries", "taken"),
    [
        ((WHOLE, ROW), 1),
        ((ROW, WHOLE), 2),
        ((TURNED, WHOLE), None),
        ((WHOLE, TURNED), 1),
        ((LONG, WHOLE), 2),
        ((LONG, ROW), None),
    ],
)
def test_only_an_operand_that_is_all_of_its_storage_and_as_the_result_is_written(
    geometries: tuple[wire.Geometry, wire.Geometry], taken: int | None
) -> None:
    got, data, (a, b) = run("sub", geometries, [wire.Op(1, 3, (1, 2), 0), 1, 2, wire.Fetch(3, 3, WHOLE)], [])
    assert (got, data) == (taken, [bits(a - b)])


def test_what_was_taken_is_freed_in_the_end_though_a_view_of_the_other_operand_was_missing() -> None:
    """The first try raises a KeyError, and Python 3.11 never frees the keywords of a call whose `*generator` raises."""
    worker, (a, b) = opened("sub", (WHOLE, LONG), [2, wire.Op(12, 2, (22,), 0)])
    (session,) = worker.host.sessions.values()
    taken = weakref.ref(session.memory.storages[1][session.memory.number(WHOLE)])
    _, data = ask(worker, [wire.Op(1, 3, (1, 2), 0), 1, 2, wire.Fetch(3, 3, WHOLE)], [])
    assert data == [bits(a - b)]
    assert next(iter(session.memory.storages[3].values())) is taken()
    ask(worker, [3], [])
    assert taken() is None


def test_both_operands_may_be_one_tensor() -> None:
    define = wire.Define(2, "aten::add.Tensor", [wire.In(0), wire.In(1)], {}, [WHOLE, WHOLE], [WHOLE])
    before = [define, wire.Op(2, 9, (1, 1), 0), 9]
    got, data, (a, _) = run("add", (WHOLE, WHOLE), [wire.Op(2, 3, (1, 1), 0), 1, wire.Fetch(3, 3, WHOLE)], before)
    assert (got, data) == (1, [bits(a + a)])


def test_what_was_fetched_is_not_overwritten_before_it_is_sent() -> None:
    _, data, (a, b) = run(
        "add", (WHOLE, WHOLE), [wire.Fetch(1, 1, WHOLE), wire.Op(1, 3, (1, 2), 0), 1, wire.Fetch(3, 3, WHOLE)], []
    )
    assert data == [bits(a), bits(a + b)]


def test_what_a_graph_has_saved_is_not_overwritten() -> None:
    handle = wire.Geometry((0,), (1,), 0, "uint8")
    graphed = wire.Define(
        4,
        "aten::mul.Tensor",
        [wire.In(0), wire.In(1)],
        {},
        [WHOLE, WHOLE],
        [WHOLE, handle],
        requires_grad=(0, 1),
        grad_mode=True,
    )
    backward = wire.Define(5, "gt::backward", [wire.In(0), wire.In(1), [0, 1]], {}, [handle, WHOLE], [WHOLE, WHOLE])
    before = [graphed, wire.Op(4, (5, 6), (1, 2), 0)]
    rest = [
        wire.Op(1, 3, (1, 2), 0), 1, 2, backward, wire.Op(5, (7, 8), (6, 3), 0),
        wire.Fetch(1, 7, WHOLE), wire.Fetch(2, 8, WHOLE),
    ]  # fmt: skip
    got, data, (a, b) = run("add", (WHOLE, WHOLE), rest, before)
    assert (got, data) == (None, [bits((a + b) * b), bits((a + b) * a)])
