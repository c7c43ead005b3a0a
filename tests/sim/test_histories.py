"""Whatever some peers send, the dispatcher goes on and the others get what is theirs."""

from __future__ import annotations

from tests.sim import histories


def test_two_thousand_histories_of_rogues_among_honest_peers() -> None:
    played, steps = histories.play_many(2000, number=0)
    assert (played, steps > 20 * played) == (2000, True)
