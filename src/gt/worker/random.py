"""One generator per session, consumed in program order.

Kernels such as dropout draw from the device's default generator and accept no other, so a session that draws borrows it:
the session's state goes in at the first draw of a batch and comes out at the end. The generator's owner never notices.
"""

from __future__ import annotations

import torch

DEFAULT_SEED = 67280421310721
"""The seed of a PyTorch process that sets none: c10::detail::default_rng_seed_val."""


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that kernels on `device` draw from."""
    if device.type == "cpu":
        return torch._C.default_generator
    torch.get_device_module(device).init()
    return torch.get_device_module(device).default_generators[device.index or 0]  # type: ignore[no-any-return]


class Random:
    """Lends the device's default generator to one session after another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._generator = default_generator(device)
        self._states: dict[int, torch.Tensor] = {}  # of each session that ever drew
        self._borrower: int | None = None
        self._owner_state: torch.Tensor | None = None

    def borrow(self, session: int) -> None:
        """Until `give_back` the default generator has the session's state. Cheap where it has it already."""
        if self._borrower == session:
            return
        self.give_back()
        self._owner_state = self._generator.get_state()
        self._generator.set_state(self.state(session))
        self._borrower = session

    def give_back(self) -> None:
        """Give the default generator back to its owner, and keep the session's state."""
        if self._borrower is not None and self._owner_state is not None:
            self._states[self._borrower] = self._generator.get_state()
            self._generator.set_state(self._owner_state)
        self._borrower = None

    def state(self, session: int) -> torch.Tensor:
        """The state of a session's generator (uint8, on the CPU)."""
        if self._borrower == session:
            return self._generator.get_state()
        state = self._states.get(session)
        if state is None:
            state = self._states[session] = self._seeded(DEFAULT_SEED)
        return state

    def set_state(self, session: int, state: torch.Tensor) -> None:
        """Set the state of a session's generator. Raises RuntimeError, TypeError for any other tensor."""
        torch.Generator(self._device).set_state(state)
        self.give_back()
        self._states[session] = state.clone()

    def seed(self, session: int, seed: int) -> None:
        """Seed a session's generator, as `torch.manual_seed` does."""
        self.give_back()
        self._states[session] = self._seeded(seed)

    def end_session(self, session: int) -> None:
        """Drop a session's generator."""
        self.give_back()
        self._states.pop(session, None)

    def _seeded(self, seed: int) -> torch.Tensor:
        return torch.Generator(self._device).manual_seed(seed).get_state()
