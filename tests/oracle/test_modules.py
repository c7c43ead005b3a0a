"""A sample of PyTorch's databases of modules and optimizers; all of it by `python -m tests.oracle.modules`."""

from __future__ import annotations

import pytest

from tests.oracle import modules

CASES = 6
"""Of each entry: dtypes, modes, ways to the device or implementations, and inputs, drawn at random."""


@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("name", modules.DATABASES)
def test_modules_and_optimizers_give_the_cpus_results(name: str, part: int) -> None:
    database = modules.DATABASES[name]
    outcomes = modules.check_all(database, database.entries[part::8], CASES)
    assert {o.entry for o in outcomes} == {e.name for e in database.entries[part::8]}
    assert modules.surprises(outcomes) == []
