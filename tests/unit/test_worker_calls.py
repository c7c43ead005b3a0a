"""Calls that a worker prepares: paths faster than PyTorch's own are bit-equal to it."""

from __future__ import annotations

import math
import random

import pytest
import torch

from gt.wire import codec, messages
from gt.wire import instructions as wire
from gt.worker.calls.kinds import Kind, kind_of
from gt.worker.execute import Worker, complete

NUMBERS = [0.0, -0.0, 1, 2**24, 2**24 + 1, 2**53 + 1, -7, True, 0.1, 1e-300, 1e300, -3.4e38, math.inf, -math.inf, math.nan]


def ask(worker: Worker, items: list[wire.Instruction], frames: list[bytes]) -> tuple[messages.Done, list[bytes]]:
    done, data = complete(worker.take(messages.Execute(1, 1, codec.pack(items)), [memoryview(f) for f in frames]))
    return done, [bytes(d) for d in data]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_an_operation_with_a_number_has_pytorchs_bits(name: str, dtype: torch.dtype) -> None:
    worker, pick = Worker("cpu"), random.Random(0)
    x = (torch.randn(37, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    numbers = NUMBERS + [pick.gauss(0, 10 ** pick.randint(-30, 30)) for _ in range(100)]
    for repeat in (numbers, numbers[::-1]):
        for number in repeat:
            if number is True and name == "sub":
                continue  # PyTorch has no such subtraction
            expected = getattr(torch, name)(x, number)
            ins = wire.Geometry((37,), (1,), 0, str(dtype).removeprefix("torch."))
            out = wire.Geometry((37,), (1,), 0, str(expected.dtype).removeprefix("torch."))
            items: list[wire.Instruction] = [
                wire.Define(1, f"aten::{name}.Tensor", [wire.In(0), wire.Number(0)], {}, [ins], [out]),
                wire.Upload(1, ins, 0, 0),
                wire.Op(1, 2, (1, number), 0),
                wire.Op(1, 3, (1, number), 0),
                wire.Fetch(1, 2, out),
                wire.Fetch(2, 3, out),
            ]
            _, data = ask(worker, items, [x.view(torch.uint8).numpy().tobytes()])
            assert data == [expected.view(torch.uint8).numpy().tobytes()] * 2, number


def test_answers_name_their_frames() -> None:
    spec = wire.Geometry((2,), (1,), 0, "uint8")
    items: list[wire.Instruction] = [
        wire.Upload(1, spec, 0, 0),
        wire.Fetch(5, 99, spec),
        wire.Fetch(6, 1, spec),
        wire.Synchronize(7),
        wire.Fetch(8, 1, spec),
    ]
    done, data = ask(Worker("cpu"), items, [b"ab"])
    answers = [(a.request, a.frame, a.failure is None) for a in done.answers]
    assert answers == [(5, -1, False), (6, 0, True), (7, -1, True), (8, 1, True)]
    assert data == [b"ab", b"ab"]


def test_definitions_that_differ_in_sizes_have_a_kind_in_common_and_others_do_not() -> None:
    def kind(size: int, *literals: wire.Arg, dtype: str = "float32") -> Kind:
        spec = wire.Geometry((size, 4), (4, 1), 0, dtype)
        return kind_of(wire.Define(1, "aten::sum.dim_IntList", [wire.In(0), *literals], {}, [spec], []), torch.device("cpu"))

    assert kind(3, [0], True) is kind(5, [0], True)
    others = [
        kind(3, [0], True, dtype="float64"),
        kind(3, [0], False),
        kind(3, [1], True),
        kind(3, [0], 1),
        kind(3, [0], 1.0),
    ]
    assert len({id(k) for k in (kind(3, [0], True), *others)}) == 6


CELL = [wire.In(0), [wire.In(1), wire.In(2)], *(wire.In(i) for i in range(3, 7))]
ROWS, FEATURES, STATE = 3, 5, 4
HANDLE = wire.Geometry((0,), (1,), 0, "uint8")


def _plain(*size: int) -> wire.Geometry:
    return wire.Geometry(size, torch.empty(size).stride(), 0, "float32")


def _cell() -> tuple[list[torch.Tensor], list[wire.Instruction], list[bytes]]:
    """The operands 1-7 of an LSTM cell, a gradient 8, and what makes of them the results 9 and 10 and their graph 11."""
    gates = 4 * STATE
    sizes = [
        (ROWS, FEATURES),
        (ROWS, STATE),
        (ROWS, STATE),
        (gates, FEATURES),
        (gates, STATE),
        (gates,),
        (gates,),
        (ROWS, STATE),
    ]
    torch.manual_seed(0)
    given = [torch.randn(size) for size in sizes]
    ins, state = [_plain(*size) for size in sizes], _plain(ROWS, STATE)
    made: list[wire.Instruction] = [
        *(wire.Upload(i + 1, spec, i, 0) for i, spec in enumerate(ins)),
        wire.Define(1, "aten::lstm_cell", CELL, {}, ins[:7], [state, state, HANDLE], tuple(range(7)), True),
        wire.Op(1, (9, 10, 11), tuple(range(1, 8)), 0),
        wire.Define(2, "gt::backward", [wire.In(0), wire.In(1), None, list(range(7))], {}, [HANDLE, state], ins[:7]),
    ]
    return given, made, [t.numpy().tobytes() for t in given]


def test_a_composites_gradients_are_the_cpus_whether_its_graph_is_kept_or_freed() -> None:
    given, items, frames = _cell()
    leaves = [t.clone().requires_grad_() for t in given[:7]]
    h, _ = torch.lstm_cell(leaves[0], leaves[1:3], *leaves[3:])
    expected = [g.numpy().tobytes() for g in torch.autograd.grad(h, leaves, given[7])]
    for first in (20, 30):
        items.append(wire.Op(2, tuple(range(first, first + 7)), (11, 8), 0))
    items += [11, wire.Op(2, tuple(range(40, 47)), (11, 8), 0)]
    worker = Worker("cpu")
    fetches = [wire.Fetch(id, id, spec) for first in (20, 30) for id, spec in enumerate(map(_like, given[:7]), first)]
    done, data = ask(worker, [*items, *fetches, wire.Fetch(99, 40, _like(given[0]))], frames)
    assert data == expected * 2
    assert [a.request for a in done.answers if a.failure is not None] == [99]  # the graph was freed


def _like(tensor: torch.Tensor) -> wire.Geometry:
    return _plain(*tensor.shape)


def test_a_backward_pass_refuses_a_gradient_that_is_not_like_its_result() -> None:
    _, items, frames = _cell()
    wrong = _plain(STATE)
    forward = next(item for item in items if isinstance(item, wire.Define))
    items += [
        wire.Define(3, "gt::backward", [wire.In(0), wire.In(1), None, list(range(7))], {}, [HANDLE, wrong], [*forward.ins]),
        wire.Op(3, tuple(range(20, 27)), (11, 8), 0),
        wire.Synchronize(1),
    ]
    done, _ = ask(Worker("cpu"), items, frames)
    failure = done.answers[0].failure
    assert failure is not None
    assert "not like its result" in failure.message
