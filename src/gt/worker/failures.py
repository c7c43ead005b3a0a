"""Errors as clients are told of them."""

from __future__ import annotations

from gt.wire.messages import Failure


def failure_of(error: Exception, op: str, site: int) -> Failure:
    """An error as clients are told of it. `site`: the number of the user's line; 0: none."""
    return Failure(type(error).__name__, str(error) or type(error).__name__, op, site)
