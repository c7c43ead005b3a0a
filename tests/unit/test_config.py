"""Settings: one table, and unknown ones are errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from gt import config
from gt.errors import ConfigError


def test_defaults_and_origins() -> None:
    values, origins = config.read({"GT_WORKER_BATCH_SIZE": "10"})
    assert (values.worker_batch_size, origins["worker_batch_size"]) == (10, "GT_WORKER_BATCH_SIZE")
    assert (values.segment_size, origins["segment_size"]) == (512, "default")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"GT_WORKER_BATCHSIZE": "1"}, "did you mean GT_WORKER_BATCH_SIZE"),
        ({"GT_WORKER_BATCH_SIZE": "ten"}, "expected int"),
        ({"GT_HEARTBEAT_S": "nan"}, "expected a number of seconds"),
        ({"GT_CONNECT_TIMEOUT_S": "inf"}, "expected a number of seconds"),
        ({"GT_ROLE": "clint"}, "expected one of client"),
        ({"GT_WORKER_BATCH_SIZE": "0"}, "the minimum is 1"),
        ({"GT_SYNC": "yes"}, "expected 0 or 1"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.read(environment)


def test_the_documentation_is_the_table() -> None:
    path = Path(__file__).parent.parent.parent / "docs" / "settings.md"
    assert path.read_text() == config.markdown()
