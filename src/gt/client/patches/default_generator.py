"""torch's default generator in a ported program, which forms one sequence with the worker's: see
`session.random_sequence`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from gt.client.calls import schemas
from gt.client.session.process import process
from gt.client.session.random_sequence import OWN, is_undisturbed, sequence


class DefaultGenerator(torch._C.Generator):
    """`torch.default_generator` of a ported program, for code that seeds it, saves its state, or passes it to an
    operator."""

    def manual_seed(self, seed: int) -> torch.Generator:
        """Seed both this process's generator and the worker's."""
        OWN.manual_seed(seed)
        if not process.forked:
            sequence.seed_worker(OWN.initial_seed())
        sequence.here = True
        return self

    def seed(self) -> int:
        """Seed with a random number, which is returned."""
        self.manual_seed(OWN.seed())
        return OWN.initial_seed()

    def initial_seed(self) -> int:
        """The seed that was set last."""
        return OWN.initial_seed()

    def get_state(self) -> torch.Tensor:
        """The state of the sequence, as uint8 on the CPU."""
        if not sequence.is_shared():
            return sequence.worker_state()
        sequence.to_client(draw=False)
        return OWN.get_state()

    def set_state(self, new_state: torch.Tensor) -> torch.Generator:
        """Set the state of the sequence (uint8)."""
        if sequence.is_shared():
            OWN.set_state(new_state.cpu())
            sequence.here, sequence.there = True, False
        else:
            sequence.set_worker_state(new_state.cpu())
        return self

    def clone_state(self) -> torch.Generator:
        """A generator of this process with the same state."""
        sequence.to_client(draw=False)
        return OWN.clone_state()


DefaultGenerator.__module__, DefaultGenerator.__qualname__ = torch._C.Generator.__module__, torch._C.Generator.__qualname__

NEVER_DRAW = ("aten::_fused_sdp_choice", "aten::_scaled_dot_product_flash_attention_for_cpu")
"""Operators that are tagged as drawing although their CPU kernels never do."""
_libraries: list[torch.library.Library] = []


@functools.cache
def of_both(own: torch.Generator) -> DefaultGenerator:
    """The patch of torch's default generator, under each of its names."""
    return DefaultGenerator()


def join() -> None:
    """From now on draws in this process and on the worker form one sequence."""
    sequence.joined = True
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about kernels that override PyTorch's own
        for short in _drawing_on_a_cpu():
            library.impl(short, _drawing_here(f"aten::{short}"), "CPU", with_keyset=True, allow_override=True)
    _libraries.append(library)


def _drawing_on_a_cpu() -> Iterator[str]:
    """The overloads whose own CPU kernel draws; others are composed of these."""
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU"):
            short = name.removeprefix("aten::")
            base, _, overload = short.partition(".")
            if name not in NEVER_DRAW and schemas.draws(getattr(getattr(torch.ops.aten, base), overload or "default")):
                yield short


def _drawing_here(name: str) -> Callable[..., Any]:
    """The CPU's kernel of an operator, which first fetches the state of the sequence."""
    kernel = torch.library.get_kernel(name, "CPU").call_boxed

    def run(keys: Any, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("generator")
        if given is None and args and isinstance(args[-1], torch.Generator):
            args, given = args[:-1], args[-1]
        if given is None or sequence.is_default(given):
            if not is_undisturbed():
                sequence.to_client()
            return kernel(keys, *args, **kwargs if given is None else {**kwargs, "generator": OWN})
        return kernel(keys, *args, **{**kwargs, "generator": given})

    return run
