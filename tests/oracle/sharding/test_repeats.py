"""What is looked up of a loop is byte for byte what would be planned anew (more:
`python -m tests.oracle.sharding.repeated`)."""

from __future__ import annotations

import pytest

from gt.wire import instructions as wire
from tests.oracle.sharding.repeated import CHANGES, compared, drawn, layout, recorded, share

OTHERS = ["dp2", "tp2", "sp2", "vocabulary_tp2"]
LAYOUTS = ["fsdp2", "dp2xtp2", "scopes", *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)]
ROUNDS = 14


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("step", ["train", "accumulate", "clear_late"])
def test_a_training_that_repeats_itself_is_planned_once(name: str, step: str) -> None:
    assert share(name, recorded((step,) * ROUNDS)) > 0.4


@pytest.mark.parametrize("number", range(1, 3))
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_program_that_goes_on_in_random_ways_is_planned_as_ever(name: str, number: int) -> None:
    share(name, recorded(drawn(number)), number)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_steps_that_only_look_alike_are_planned_each(name: str, change: str) -> None:
    assert share(name, recorded(tuple(CHANGES[change]))) > 0.2


def test_one_argument_in_the_place_of_two_is_placed_once() -> None:
    geometry = wire.Geometry((4,), (1,), 0, "float32")
    batches: list[list[wire.FromClient]] = []
    for first, second in [*((n, n + 1) for n in range(1, 16, 2)), (17, 17)]:
        batches.append([wire.Upload(id, geometry, frame, site=0) for frame, id in enumerate((first, second))])
        batches.append([wire.Argument(id, geometry, name) for id, name in ((first, "x"), (second, "y"))])
        batches.append([first, second])
    planner = compared(layout("dp2"), iter(batches))
    assert planner._repeats.repeated > len(batches)
