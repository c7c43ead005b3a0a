"""Programs on one layout each, of which CI runs a third; all on all by `python -m tests.oracle.sharding.programs`."""

from __future__ import annotations

import pytest

from tests.oracle.sharding.programs.catalogue import PROGRAMS
from tests.oracle.sharding.programs.placements import LAYOUTS
from tests.oracle.sharding.programs.program import compare

SHARDED = [name for name in LAYOUTS if name != "one"]
CASES = [
    pytest.param(name, SHARDED[n % len(SHARDED)], marks=[pytest.mark.long] if n % 3 else [])
    for n, name in enumerate(PROGRAMS)
]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_program_shows_what_it_shows_on_a_cpu(name: str, layout: str) -> None:
    found = compare(PROGRAMS[name], layout)
    assert found.apart <= found.allowed, f"value {found.worst}"
