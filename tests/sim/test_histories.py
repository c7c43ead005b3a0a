"""Whatever some peers send, the dispatcher continues and the others get their results."""

from __future__ import annotations

from tests.sim import histories


def test_two_thousand_histories_of_rogues_among_honest_peers() -> None:
    played, steps = histories.play_many(2000, number=0)
    assert (played, steps > 20 * played) == (2000, True)
