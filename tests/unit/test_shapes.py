"""The worker of `gt explain`, which knows sizes only."""

from __future__ import annotations

from gt.tools.shapes import ShapeWorker
from gt.wire import codec, messages
from gt.wire import instructions as wire

GEOMETRY = wire.Geometry((2, 3), (3, 1), 0, "bfloat16")


def test_what_is_fetched_is_zeros_and_other_requests_are_answered() -> None:
    items: list[wire.Instruction] = [wire.Synchronize(1), wire.Fetch(2, 7, GEOMETRY), 7, wire.GetRandomState(3)]
    done, frames = ShapeWorker(print).take(messages.Execute(1, 5, codec.pack(items)))
    assert (done.session, done.seq) == (1, 5)
    assert [(a.request, a.frame, a.failure) for a in done.answers] == [(1, -1, None), (2, 0, None), (3, 1, None)]
    assert frames[0] == bytes(12)


def test_each_worker_of_a_session_says_what_it_counts() -> None:
    done, _ = ShapeWorker(print).take(messages.Execute(1, 5, codec.pack([wire.Stats(1)])), workers=4)
    assert [stats.free_bytes for stats in done.answers[0].stats] == [1 << 40] * 4


def test_a_query_is_refused_with_its_line() -> None:
    refused: list[str] = []
    query = wire.Query(4, "aten::nonzero", [wire.In(0)], {}, [(7, GEOMETRY)], 99, 12)
    done, _ = ShapeWorker(refused.append).take(messages.Execute(1, 5, codec.pack([query])))
    (answer,) = done.answers
    assert refused == ["aten::nonzero"]
    assert answer.failure == messages.Failure(
        "RefusedError", "aten::nonzero depends on values, and `gt explain` runs the step on shapes alone", site=12
    )
