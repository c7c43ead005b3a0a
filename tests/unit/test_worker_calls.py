"""Calls that a worker prepares: paths faster than PyTorch's own are bit-equal to it."""

from __future__ import annotations

import math
import random

import pytest
import torch

from gt.wire import codec, messages
from gt.wire import instructions as wire
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
