"""`gt.utils.data`: loaders whose shuffling draws from the session's generator, as a local script's would.

PyTorch's samplers draw on the client's CPU generator. With one seed, a local script has one generator for shuffling,
initialisation and dropout; so here the session's state is lent to the client while a sampler draws.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import data

_STATE_BYTES = torch.default_generator.get_state().numel()


class Lent:
    """Whether the session's state is with the client at the moment."""

    now = False


@contextlib.contextmanager
def session_randomness() -> Iterator[None]:
    """The client's CPU generator stands in for the session's. A worker of another kind keeps its own numbers."""
    before = None if Lent.now else torch.remote.get_rng_state()  # type: ignore[attr-defined]
    if before is None or before.numel() != _STATE_BYTES:
        yield
        return
    torch.default_generator.set_state(before)
    Lent.now = True
    try:
        yield
    finally:
        Lent.now = False
        after = torch.default_generator.get_state()
        if not torch.equal(before, after):
            torch.remote.set_rng_state(after)  # type: ignore[attr-defined]


class _SessionSampler(data.Sampler[Any]):
    """A sampler whose first draw, at which PyTorch's samplers seed themselves, is the session's."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.sampler)
        with session_randomness():
            first = list(_take_one(iterator))
        yield from first
        yield from iterator

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


def _take_one(iterator: Iterator[Any]) -> Iterator[Any]:
    for value in iterator:
        yield value
        return


class DataLoader(data.DataLoader[Any]):
    """`torch.utils.data.DataLoader`; with worker processes, which make local tensors, batches are moved to the device."""

    @property
    def _index_sampler(self) -> Any:
        return _SessionSampler(super()._index_sampler)

    def __iter__(self) -> Any:
        with session_randomness() if self.generator is None else contextlib.nullcontext():
            iterator = super().__iter__()
        return map(to_remote, iterator) if self.num_workers else iterator


def to_remote(batch: Any) -> Any:
    """The same structure with its CPU tensors on the remote device."""
    if isinstance(batch, torch.Tensor):
        return batch.to("remote")
    if isinstance(batch, dict):
        return {k: to_remote(v) for k, v in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(to_remote, batch))
    return type(batch)(map(to_remote, batch)) if isinstance(batch, (list, tuple)) else batch


@functools.wraps(data.random_split)
def random_split(dataset: Any, lengths: Any, generator: torch.Generator | None = None) -> Any:
    if generator is not None:
        return data.random_split(dataset, lengths, generator)
    with session_randomness():
        return data.random_split(dataset, lengths)
