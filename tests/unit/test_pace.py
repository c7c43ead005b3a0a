"""The sizes of segments: short for an idle worker, long in a stream, and short again before a request that is expected."""

from __future__ import annotations

import pytest

from gt.client.session.pace import Pace


def lap(pace: Pace, instructions: int, limit: int) -> list[int]:
    """The segments in which a program sends so many instructions, of which the last is a request."""
    sizes = []
    while instructions:
        sizes.append(min(limit, instructions))
        instructions -= sizes[-1]
        limit = pace.after_sending(sizes[-1], limit)
    return sizes


def test_segments_of_a_stream_of_unknown_length_become_longer_up_to_the_setting() -> None:
    pace = Pace()
    assert lap(pace, 2000, pace.after_answer()) == [64, 128, 256, 512, 512, 512, 16]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (100, [64, 36]),
        (207, [64, 71, 72]),
        (400, [64, 128, 104, 104]),
        (1000, [64, 128, 256, 276, 138, 69, 69]),
    ],
)
def test_a_lap_as_long_as_the_one_before_ends_with_a_short_segment(count: int, sizes: list[int]) -> None:
    pace = Pace()
    lap(pace, count, pace.after_answer())
    assert lap(pace, count, pace.after_answer()) == sizes


def test_a_short_lap_between_long_ones_changes_nothing() -> None:
    pace = Pace()
    lap(pace, 1000, pace.after_answer())
    once = lap(pace, 1000, pace.after_answer())
    lap(pace, 3, pace.after_answer())
    assert lap(pace, 1000, pace.after_answer()) == once


def test_a_lap_longer_than_expected_goes_on_as_a_stream() -> None:
    pace = Pace()
    lap(pace, 300, pace.after_answer())
    sizes = lap(pace, 5000, pace.after_answer())
    assert sizes[-2] == max(sizes) == 512


def test_short_laps_are_one_segment_each() -> None:
    pace = Pace()
    assert [lap(pace, 30, pace.after_answer()) for _ in range(3)] == [[30]] * 3
