"""A worker goes on while its collectives are under way, up to what needs their results."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gt.errors import PeerError
from gt.fakes import Board, FakeGroup
from gt.placement.mesh import Mesh
from gt.wire import codec, messages
from gt.wire import instructions as wire
from gt.worker.execute import Work, Worker
from gt.worker.under_way import MOST_UNDER_WAY

PAIR = wire.Geometry((2,), (1,), 0, "float32")
HALVES = wire.Geometry((4,), (1,), 0, "float32")
ADD = wire.Define(1, "aten::add.Tensor", [wire.In(0), wire.Number(0)], {}, [PAIR], [PAIR])
REDUCE = wire.AllReduce(0, "sum", (wire.Part(1, 2, "float32"),))


class Pair:
    """A worker, and the group of its only peer, which the test plays."""

    def __init__(self) -> None:
        mesh, board = Mesh(("dp",), (2,)), Board()
        self.worker = Worker("cpu")
        self.worker.join(1, FakeGroup(0, mesh, board))
        self.peer = FakeGroup(1, mesh, board)
        self._ids = 0

    def take(self, *items: wire.Instruction) -> Work:
        """The worker's work on instructions; storages 1, 2, ... have been uploaded as [1, 2], [10, 20], ..."""
        numbers = range(1, MOST_UNDER_WAY + 2)
        frames = [memoryview(struct.pack("2f", 10 ** (n - 1), 2 * 10 ** (n - 1))) for n in numbers]
        uploads = [wire.Upload(n, PAIR, n - 1, 0) for n in numbers]
        return self.worker.take(messages.Execute(1, 1, codec.pack([*uploads, ADD, *items])), frames)

    def held(self, id: int) -> list[float]:
        views = self.worker.host.sessions[1].memory.storages[id]
        return next(iter(views.values())).tolist()  # type: ignore[no-any-return]

    def is_known(self, id: int) -> bool:
        return id in self.worker.host.sessions[1].memory.storages


def finish(work: Work) -> tuple[messages.Done, list[list[float]]]:
    """What the work answers, and the values that it sends."""
    try:
        while True:
            next(work)
    except StopIteration as stopped:
        done, data = stopped.value
    return done, [list(struct.unpack("2f", frame)) for frame in data]


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_it_goes_on_up_to_the_first_use(pair: Pair) -> None:
    work = pair.take(REDUCE, wire.Op(1, 4, (2, 0.5), 0), wire.Op(1, 5, (1, 0.5), 0), wire.Fetch(1, 5, PAIR))
    next(work)
    assert pair.held(4) == [10.5, 20.5]
    assert not pair.is_known(5)
    pair.peer.all_reduce(0, torch.tensor([1000.0, 2000.0]), "sum")
    assert finish(work)[1] == [[1001.5, 2002.5]]


USES: dict[str, Callable[[], wire.Instruction]] = {
    "operation": lambda: wire.Op(1, 5, (1, 0.5), 0),
    "another reduction": lambda: wire.AllReduce(0, "sum", (wire.Part(1, 2, "float32"),)),
    "scatter": lambda: wire.ReduceScatter(0, "sum", (wire.Part(1, 2, "float32", 1),)),
    "gather": lambda: wire.AllGather(0, (wire.Part(1, 2, "float32", 2, 7),)),
    "upload": lambda: wire.Upload(1, PAIR, 0, 0),
    "fetch": lambda: wire.Fetch(1, 1, PAIR),
    "query": lambda: wire.Query(1, "aten::sum", [wire.In(0)], {}, [(1, PAIR)], 20, 0),
    "cut": lambda: wire.Cut(0, 1, 1),
    "slice": lambda: wire.Slice(0, 1, PAIR, 8, 0, 1),
    "once": lambda: wire.Once(0, 1, 8),
    "verdict": lambda: wire.Verdict((1,), 8),
    "synchronize": lambda: wire.Synchronize(1),
    "statistics": lambda: wire.Stats(1),
    "file": lambda: wire.SaveFile(1, "/nowhere", {"x": (1, PAIR)}, {}),
}


@pytest.mark.parametrize("use", USES)
def test_whatever_uses_a_result_waits_for_it(pair: Pair, use: str) -> None:
    work = pair.take(REDUCE, wire.Op(1, 4, (3, 0.5), 0), USES[use](), wire.Op(1, 6, (2, 0.5), 0))
    next(work)
    assert pair.held(4) == [100.5, 200.5]
    assert not pair.is_known(6)


@pytest.mark.parametrize("other", [wire.Fetch(1, 2, PAIR), wire.Seed(3), wire.Coordinate(0, 1, 8), wire.Forget([9])])
def test_what_does_not_use_it_runs_meanwhile(pair: Pair, other: wire.Instruction) -> None:
    work = pair.take(REDUCE, other, wire.Op(1, 6, (2, 0.5), 0))
    done, _ = finish(work)
    assert not any(answer.failure for answer in done.answers)
    assert pair.held(6) == [10.5, 20.5]


def test_what_is_under_way_at_the_end_of_a_message_is_there_in_the_next(pair: Pair) -> None:
    finish(pair.take(REDUCE))
    pair.peer.all_reduce(0, torch.tensor([1000.0, 2000.0]), "sum")
    work = pair.worker.take(messages.Execute(1, 2, codec.pack([wire.Fetch(1, 1, PAIR)])), [])
    assert finish(work)[1] == [[1001, 2002]]


def test_a_result_that_was_freed_meanwhile_stays_freed(pair: Pair) -> None:
    work = pair.take(REDUCE, 1, wire.Synchronize(1))
    next(work)
    pair.peer.all_reduce(0, torch.tensor([1000.0, 2000.0]), "sum")
    finish(work)
    assert not pair.is_known(1)


def test_a_bounded_number_is_under_way(pair: Pair) -> None:
    numbers = range(1, MOST_UNDER_WAY + 2)
    work = pair.take(*(wire.AllReduce(0, "sum", (wire.Part(n, 2, "float32"),)) for n in numbers), wire.Synchronize(1))
    next(work)
    assert len(pair.worker.host.sessions[1].under_way.begun) == MOST_UNDER_WAY
    for _ in numbers:
        pair.peer.all_reduce(0, torch.tensor([0.5, 0.5]), "sum")
    finish(work)
    assert [pair.held(n) for n in numbers] == [[10 ** (n - 1) + 0.5, 2 * 10 ** (n - 1) + 0.5] for n in numbers]


def test_a_peer_that_leaves_meanwhile_is_an_error_where_the_result_is_used(pair: Pair) -> None:
    work = pair.take(REDUCE, wire.Op(1, 4, (2, 0.5), 0), wire.Fetch(1, 4, PAIR), wire.Fetch(2, 1, PAIR))
    next(work)
    pair.peer.close()
    done, data = finish(work)
    assert data == [[10.5, 20.5]]
    failures = {answer.request: answer.failure for answer in done.answers}
    assert failures[1] is None
    assert failures[2] is not None
    assert failures[2].kind == PeerError.__name__


def test_a_gathered_storage_is_there_once_it_is_used(pair: Pair) -> None:
    item: Any = wire.AllGather(0, (wire.Part(1, 2, "float32", 2, 7),))
    add = wire.Define(2, "aten::add.Tensor", [wire.In(0), wire.Number(0)], {}, [HALVES], [HALVES])
    work = pair.take(item, add, 1, wire.Op(1, 4, (2, 0.5), 0), wire.Op(2, 8, (7, 0.5), 0))
    next(work)
    assert pair.held(4) == [10.5, 20.5]
    pair.peer.all_gather(0, torch.empty(2, 8, dtype=torch.uint8), torch.tensor([3.0, 4.0]).view(torch.uint8))
    finish(work)
    assert pair.held(8) == [1.5, 2.5, 3.5, 4.5]
