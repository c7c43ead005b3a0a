"""What the sessions of one worker share."""

from __future__ import annotations

import torch

from gt.worker.run import Runner
from gt.worker.session import WorkerSession


class Host:
    """A device and the sessions on it. `data_dirs`: folders that files may be in (None: anywhere)."""

    def __init__(self, device: str = "cpu", data_dirs: tuple[str, ...] | None = None) -> None:
        self.device: torch.device = torch.device(device)
        self.data_dirs = data_dirs
        self.runner = Runner(self.device)
        self.sessions: dict[int, WorkerSession] = {}
