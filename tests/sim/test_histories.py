"""Whatever some peers send, the dispatcher continues and the others get their results."""

from __future__ import annotations

import pytest

from tests.sim import histories


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.long)])
def test_histories_of_rogues_among_honest_peers(count: int) -> None:
    played, steps = histories.play_many(count, number=0)
    assert (played, steps > 20 * played) == (count, True)
