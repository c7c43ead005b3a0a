"""A layout of each model, two steps; all of them by `python -m tests.oracle.sharding.models`."""

from __future__ import annotations

import pytest

from tests.oracle.sharding.models import MODELS, run, too_far
from tests.oracle.sharding.training import apart

LAYOUTS = {
    "gpt": "dp2xtp2",
    "gpt facade": "tp2",
    "t5": "tp2",
    "mixtral": "fsdp2",
    "resnet": "dp2",
    "lstm": "dp2",
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_model_trains_as_on_one_worker(name: str) -> None:
    found = apart(run(name, LAYOUTS[name], 2), run(name, None, 2))
    assert not too_far(found, MODELS[name].tolerance), f"{found} {found.worst}"
