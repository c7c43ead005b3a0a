"""The sharding of this process's tensors: from `GT_CONFIG`, `gt.load_config` or `gt.sharding`; without any, one worker."""

from __future__ import annotations

from gt.placement.layout import Sharding


class Configured:
    """What is in force. Sessions are opened with it, so it is set before the first tensor."""

    def __init__(self) -> None:
        self.sharding: Sharding | None = None
        self.on_shapes = False
        """Whether the workers compute nothing: `gt explain` runs this program."""

    @property
    def workers_needed(self) -> int:
        """How many workers a session has."""
        return self.sharding.workers_needed if self.sharding is not None else 1


configured = Configured()
