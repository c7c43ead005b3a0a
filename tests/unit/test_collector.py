"""Pausing Python's garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from gt import collector


@pytest.fixture(params=[True, False], ids=["enabled", "disabled"])
def enabled(request: pytest.FixtureRequest) -> Iterator[bool]:
    (gc.enable if request.param else gc.disable)()
    yield request.param
    gc.enable()


def test_it_is_afterwards_as_it_was_before(enabled: bool) -> None:
    with collector.paused():
        assert not gc.isenabled()
    assert gc.isenabled() is enabled


def test_a_failed_import_does_not_leave_it_paused(enabled: bool) -> None:
    with pytest.raises(ImportError), collector.paused():
        import nowhere_to_be_found  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled() is enabled
