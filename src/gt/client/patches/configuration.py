"""What a configuration of sharding needs of the program: its patches, and the scopes of its backward passes."""

from __future__ import annotations

import functools

from gt.client.patches.marks import marks
from gt.client.patches.patch import apply
from gt.client.patches.table import SHARDED
from gt.client.session.configured import configured
from gt.client.session.process import process
from gt.client.stream.watched import watch


def install() -> None:
    """Observe the program from now on, as the configuration in force needs it."""
    if configured.sharding is not None and configured.sharding.scopes:
        watch()
    _patch()


@functools.cache
def _patch() -> None:
    """Make the patches, which stay when another configuration is chosen."""
    process.when_closed.append(marks.forget)
    apply(SHARDED)
