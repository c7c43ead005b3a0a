"""A worker's device and what its sessions share there."""

from __future__ import annotations

import torch

from gt.worker.calls.runner import Runner
from gt.worker.session import WorkerSession


class Host:
    """What handlers of instructions may use besides their own session."""

    def __init__(self, device: str, data_dirs: tuple[str, ...] | None) -> None:
        self.device: torch.device = torch.device(device)
        self.data_dirs = data_dirs
        """The folders that files may be in; None: anywhere."""
        self.runner = Runner(self.device)
        self.sessions: dict[int, WorkerSession] = {}
        """By number."""
