"""One sequence of random numbers: torch's own generator and the worker's, whichever a program draws from.

On a CPU a script and the libraries beside it draw from one generator. Here the script's tensors draw on the worker and a
library's in this process, so the state of that one generator goes where the next number is drawn: to the worker as an
instruction, back as an answer. After a seed both have it. Programs that say `import gt as torch` are joined so; in others
the two are apart, as a CPU's and an accelerator's are.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from gt.client import current, record
from gt.client.aside import aside
from gt.wire import instructions as wire
from gt.wire.shared import inline

OWN = torch._C.default_generator
"""This process's generator, whatever stands for it under torch's names."""


class Sequence:
    """Where the state is. Both: nothing was drawn since it was seeded."""

    here = True
    there = True
    joined = False
    """Whether what is drawn in this process is of this sequence."""


_undisturbed = threading.local()
"""`now`: what this thread draws is nobody's."""


def draws(op: torch._ops.OpOverload) -> bool:
    """Whether an operator takes numbers from a generator."""
    return torch.Tag.nondeterministic_seeded in op.tags or any(a.name == "generator" for a in op._schema.arguments)


def is_default(generator: Any) -> bool:
    """Whether a generator given by a program is the sequence."""
    return Sequence.joined and generator._cdata in (OWN._cdata, torch.default_generator._cdata)


def _is_one() -> bool:
    """Whether the worker's generator is of this process's kind: an accelerator's is not, and keeps its own numbers."""
    session = current.Process.session
    return session is None or session.welcome.worker.device == "cpu"


def to_worker() -> None:
    """Before an instruction that draws."""
    if not Sequence.there:
        with record.lock, aside():
            current.session()
            if _is_one():
                set_worker_state(OWN.get_state())
            Sequence.there = True
    Sequence.here = False


def _to_client(draw: bool = True) -> None:
    """Before a number is drawn in this process, or its generator's state is asked for."""
    if not Sequence.joined:
        return
    if not Sequence.here:
        with record.lock, aside():
            current.session()
            if _is_one():
                OWN.set_state(worker_state())
            Sequence.here = True
    if draw:
        Sequence.there = False


def worker_state() -> torch.Tensor:
    """The state of the session's generator, as uint8 on the CPU."""
    _, state = current.session().ask(wire.GetRandomState)
    return torch.frombuffer(bytearray(inline(state)), dtype=torch.uint8)


def set_worker_state(state: torch.Tensor) -> None:
    with record.lock:
        record.frames.append(record.bytes_of(state))
        record.segment.append(wire.SetRandomState(len(record.frames) - 1))
    Sequence.here, Sequence.there = False, True


def seed_worker(seed: int) -> None:
    record.record(wire.Seed(seed & 0xFFFF_FFFF_FFFF_FFFF))
    Sequence.here, Sequence.there = False, True


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """What is drawn in this process inside is no part of any sequence."""
    state, before = OWN.get_state(), getattr(_undisturbed, "now", False)
    _undisturbed.now = True
    try:
        yield
    finally:
        _undisturbed.now = before
        OWN.set_state(state)


# -- joined: what stands for torch's generator, and what a CPU's kernels do before they draw -------------------------------


class DefaultGenerator(torch.Generator):
    """`torch.default_generator` of a joined program, for whoever seeds it, keeps its state, or draws from it by name."""

    def manual_seed(self, seed: int) -> torch.Generator:
        OWN.manual_seed(seed)
        if not current.Process.forked:
            seed_worker(OWN.initial_seed())
        Sequence.here = True
        return self

    def seed(self) -> int:
        self.manual_seed(OWN.seed())
        return OWN.initial_seed()

    def initial_seed(self) -> int:
        return OWN.initial_seed()

    def get_state(self) -> torch.Tensor:
        if not _is_one():
            return worker_state()
        _to_client(draw=False)
        return OWN.get_state()

    def set_state(self, new_state: torch.Tensor) -> torch.Generator:
        if _is_one():
            OWN.set_state(new_state.cpu())
            Sequence.here, Sequence.there = True, False
        else:
            set_worker_state(new_state.cpu())
        return self

    def clone_state(self) -> torch.Generator:
        _to_client(draw=False)
        return OWN.clone_state()


DefaultGenerator.__module__, DefaultGenerator.__qualname__ = torch.Generator.__module__, torch.Generator.__qualname__

NEVER_DRAW = ("aten::_fused_sdp_choice", "aten::_scaled_dot_product_flash_attention_for_cpu")
"""Operators that are marked as drawing, and whose kernels for a CPU never do."""
_libraries: list[torch.library.Library] = []


def join() -> None:
    """Make what is drawn in this process and on the worker one sequence, from here on."""
    if Sequence.joined:
        return
    Sequence.joined = True
    torch.default_generator = torch.random.default_generator = DefaultGenerator()
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these kernels stand before PyTorch's own
        for short in _drawing_on_a_cpu():
            library.impl(short, _drawing_here(f"aten::{short}"), "CPU", with_keyset=True, allow_override=True)
    _libraries.append(library)


def _drawing_on_a_cpu() -> Iterator[str]:
    """The overloads that draw in a kernel of the CPU's own; the others are made of them."""
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU"):
            short = name.removeprefix("aten::")
            base, _, overload = short.partition(".")
            if name not in NEVER_DRAW and draws(getattr(getattr(torch.ops.aten, base), overload or "default")):
                yield short


def _drawing_here(name: str) -> Callable[..., Any]:
    """The CPU's kernel of an operator, before which the state comes here."""
    kernel = torch.library.get_kernel(name, "CPU").call_boxed

    def run(keys: Any, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("generator")
        if given is None and args and isinstance(args[-1], torch.Generator):
            args, given = args[:-1], args[-1]
        if given is None or is_default(given):
            if not getattr(_undisturbed, "now", False):
                _to_client()
            return kernel(keys, *args, **kwargs if given is None else {**kwargs, "generator": OWN})
        return kernel(keys, *args, **{**kwargs, "generator": given})

    return run


def _before_fork() -> None:
    """A forked child goes on with the numbers that its parent would draw."""
    if not current.Process.forked and current.Process.session is not None:
        _to_client(draw=False)


def _after_fork() -> None:
    """The child draws in its own process alone."""
    Sequence.here = True


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
