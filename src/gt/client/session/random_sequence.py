"""One sequence of random numbers, of torch's own generator and the worker's, whichever a program draws from.

On a CPU a script and its libraries draw from one generator. Here the script's tensors draw on the worker and a library's in
this process, so the state of that one generator moves to where the next number is drawn: to the worker as an instruction,
back as an answer. After a seed both have it. This holds for programs that say `import gt as torch`; in others the two
generators are independent, as a CPU's and an accelerator's are.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch

from gt.client.session.configured import configured
from gt.client.session.process import process
from gt.client.session.recording import bytes_of, record
from gt.client.stream.isolation import isolated
from gt.client.stream.segment import recorder
from gt.wire import instructions as wire
from gt.wire.shared import inline

OWN = torch._C.default_generator
"""This process's generator, whatever stands for it under torch's names."""


class RandomSequence:
    """Where the state of the sequence is; both `here` and `there` until a number is drawn after a seed."""

    def __init__(self) -> None:
        self.here = True
        self.there = True
        self.joined = False
        """Whether numbers drawn in this process belong to the sequence."""
        os.register_at_fork(before=self._before_fork, after_in_child=self._after_fork)

    def is_default(self, generator: Any) -> bool:
        """Whether a generator given by a program is the default one."""
        return self.joined and generator._cdata in (OWN._cdata, torch.default_generator._cdata)

    def is_shared(self) -> bool:
        """Whether the worker's generator is of the same kind as this process's. An accelerator's is not, and draws its own
        numbers."""
        return process.opened is None or (process.opened.is_on_cpus and not configured.on_shapes)

    def to_worker(self) -> None:
        """Called before an instruction that draws."""
        if not self.there:
            with recorder.lock, isolated():
                process.session()
                if self.is_shared():
                    self.set_worker_state(OWN.get_state())
                self.there = True
        self.here = False

    def to_client(self, draw: bool = True) -> None:
        """Called before a number is drawn in this process, or (`draw=False`) before its generator's state is read."""
        if not self.joined:
            return
        if not self.here:
            with recorder.lock, isolated():
                process.session()
                if self.is_shared():
                    OWN.set_state(self.worker_state())
                self.here = True
        if draw:
            self.there = False

    def worker_state(self) -> torch.Tensor:
        """The state of the session's generator, as uint8 on the CPU."""
        _, state = process.session().ask(wire.GetRandomState)
        return torch.frombuffer(bytearray(inline(state)), dtype=torch.uint8)

    def set_worker_state(self, state: torch.Tensor) -> None:
        """Record that the worker's generator takes this state (uint8 on the CPU)."""
        with recorder.lock:
            segment = recorder.segment
            segment.append(wire.SetRandomState(segment.add_frame(bytes_of(state))))
        self.here, self.there = False, True

    def seed_worker(self, seed: int) -> None:
        """Record that the worker's generator is seeded."""
        record(wire.Seed(seed & 0xFFFF_FFFF_FFFF_FFFF))
        self.here, self.there = False, True

    def begin_anew(self) -> None:
        """A new session has been opened, and its generator seeded as at first: so is this process's if it is in the
        sequence."""
        if self.joined:
            OWN.manual_seed(OWN.initial_seed())
        self.here = self.there = True

    def _before_fork(self) -> None:
        """A forked child continues with the numbers that its parent would draw."""
        if not process.forked and process.opened is not None:
            self.to_client(draw=False)

    def _after_fork(self) -> None:
        """A child without a session draws only in its own process."""
        if process.forked:
            self.here = True


sequence = RandomSequence()
_undisturbed = threading.local()
"""`now`: whether this thread's draws belong to no sequence."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Numbers drawn in this process inside this context leave its generator as it was."""
    state, before = OWN.get_state(), is_undisturbed()
    _undisturbed.now = True
    try:
        yield
    finally:
        _undisturbed.now = before
        OWN.set_state(state)


def is_undisturbed() -> bool:
    """Whether this thread is inside `undisturbed`."""
    return getattr(_undisturbed, "now", False)
