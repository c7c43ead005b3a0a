"""Random programs behave on the remote device as on the CPU."""

from __future__ import annotations

import pytest

from tests.oracle.programs import check

PROGRAMS = 25


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("first", range(0, 150, PROGRAMS))
def test_a_program_does_what_it_does_on_the_cpu(first: int) -> None:
    assert check(first, first + PROGRAMS) == []


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("first", range(1008, 1020, 6))
def test_a_step_does_so_after_it_ran_under_a_tracer_or_a_mode(first: int) -> None:
    assert check(first, first + 6, rehearsed=True) == []
