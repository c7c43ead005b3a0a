"""`torch.Generator(device="remote")`: the numbers of a CPU's generator with the same seed, drawn on the worker.

The state is in this process, where programs read and set it; a draw on the worker takes it there and back.
"""

from __future__ import annotations

from typing import Any

import torch

from gt.client.patches.by_device import names_remote
from gt.client.stream import devices
from gt.client.stream.devices import REMOTE


class Generator(torch._C.Generator):
    """A generator for the remote device. It draws for CPU tensors too, and is pickled as one for the CPU."""

    device = REMOTE  # type: ignore[assignment]

    def __new__(cls, device: Any = REMOTE) -> Generator:
        """Raises RuntimeError for a remote device that does not exist."""
        devices.check_index(torch.device(device))
        return super().__new__(cls)

    def set_state(self, new_state: torch.Tensor) -> Generator:
        """Set the state: uint8, as `get_state` returned it, on any device."""
        super().set_state(new_state.cpu())
        return self

    def clone_state(self) -> Generator:
        """Another generator with the same state."""
        return type(self)().set_state(self.get_state())

    def __copy__(self) -> Generator:
        return self.clone_state()

    def __deepcopy__(self, memo: dict[int, Any]) -> Generator:
        return self.clone_state()


Generator.__module__, Generator.__qualname__ = torch._C.Generator.__module__, torch._C.Generator.__qualname__


def is_for_remote(device: Any = None) -> bool:
    """Whether `torch.Generator(...)` is to make one for the remote device."""
    return names_remote(device)
