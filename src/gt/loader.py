"""`gt.utils.data`: loaders whose shuffling draws from the session's generator, as a local script's would.

PyTorch's samplers draw on the client's CPU generator. With one seed, a local script has one generator for shuffling,
initialisation and dropout; so here the session's state is lent to the client while a sampler draws.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch.utils import data
from torch.utils._pytree import tree_map
from torch.utils.data.datapipes.iter import combinatorics as iter_pipes
from torch.utils.data.datapipes.map import combinatorics as map_pipes

from gt import places
from gt.client import query
from gt.stand_ins import StandIn

_lent = threading.local()
_STATE_BYTES = torch.default_generator.get_state().numel()


@contextlib.contextmanager
def session_randomness(lent_to: torch.Generator | None = None) -> Iterator[None]:
    """A CPU generator (the client's own) stands in for the session's. A worker of another kind keeps its own numbers."""
    generator = torch.default_generator if lent_to is None else lent_to
    if getattr(_lent, "now", False):  # a loader with worker processes draws from its sampler while it is made
        yield
        return
    before = torch.remote.get_rng_state()  # type: ignore[attr-defined]
    if before.numel() != _STATE_BYTES:
        yield
        return
    torch.Generator.set_state(generator, before)
    _lent.now = True
    try:
        yield
    finally:
        _lent.now = False
    after = torch.Generator.get_state(generator)
    if not torch.equal(before, after):
        torch.remote.set_rng_state(after)  # type: ignore[attr-defined]


def _is_session(generator: torch.Generator | None) -> bool:
    return generator is None or generator._cdata in query.session_generators


def _drawn_from_session(iterator: Iterator[Any], lent_to: torch.Generator | None = None) -> Iterator[Any]:
    """What a sampler gives, which seeds a generator of its own at the first element, or draws from one at any."""
    for _ in range(1) if lent_to is None else itertools.count():
        with session_randomness(lent_to):
            found = list(itertools.islice(iterator, 1))
        if not found:
            return
        yield from found
    yield from iterator


def _drawing(real: Any) -> Any:
    """A sampler class of `gt`, whose instances draw from the session where they have no generator of their own."""

    def draw(self: Any) -> Iterator[Any]:
        found: Iterator[Any] = real.__iter__(self)
        return _drawn_from_session(found, self.generator) if _is_session(self.generator) else found

    return StandIn(real.__name__, (real,), {"__iter__": draw}, stands_for=real)


def _seeding(reset: Callable[[Any], None]) -> Callable[[Any], None]:
    """`reset` of a data pipe that shuffles, at which it seeds itself; pipes are PyTorch's own in every file."""

    @functools.wraps(reset)
    def call(self: Any) -> None:
        with session_randomness() if places.called_by_ported() else contextlib.nullcontext():
            reset(self)

    return call


def install() -> None:
    for shuffler in (iter_pipes.ShufflerIterDataPipe, map_pipes.ShufflerIterDataPipe):
        shuffler.reset = _seeding(shuffler.reset)  # type: ignore[assignment]


class _SessionSampler(data.Sampler[Any]):
    """A sampler whose first draw, at which PyTorch's samplers seed themselves, is the session's."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        return _drawn_from_session(iter(self.sampler))

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


SAMPLERS = {s.__name__: _drawing(s) for s in (data.RandomSampler, data.SubsetRandomSampler, data.WeightedRandomSampler)}


class DataLoader(data.DataLoader[Any], metaclass=StandIn, stands_for=data.DataLoader):
    """Its batches are on the device: also what worker processes or NumPy arrays give."""

    @functools.wraps(data.DataLoader.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = isinstance(self.sampler, (data.RandomSampler, data.SubsetRandomSampler, data.WeightedRandomSampler))
        if own and getattr(self.sampler, "generator", None) is None and self.batch_sampler is not None:
            self.batch_sampler.sampler = _SessionSampler(self.sampler)  # type: ignore[attr-defined]

    def __iter__(self) -> Any:
        with session_randomness() if self.generator is None else contextlib.nullcontext():
            if not self.num_workers:
                return map(to_remote, super().__iter__())
            own = self.dataset
            self.__dict__["dataset"] = to_local(own)  # worker processes cannot reach the session
            try:
                return map(to_remote, super().__iter__())
            finally:
                self.__dict__["dataset"] = own


def to_local(value: Any) -> Any:
    """The same with the remote tensors that a dataset holds, or datasets inside it, in this process's memory."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, (list, tuple, dict)):
        return tree_map(to_local, value, is_leaf=lambda v: isinstance(v, (torch.Tensor, data.Dataset)))
    if isinstance(value, data.Dataset):
        found = copy.copy(value)
        found.__dict__.update({name: to_local(held) for name, held in value.__dict__.items()})
        return found
    return value


def to_remote(batch: Any) -> Any:
    """The same with its CPU tensors on the remote device; containers keep their types, as under `pin_memory`."""
    if isinstance(batch, torch.Tensor):
        return batch.to("remote")
    if isinstance(batch, MutableMapping):
        moved = copy.copy(batch)
        moved.update({k: to_remote(v) for k, v in batch.items()})
        return moved
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(to_remote, batch))
    return type(batch)(map(to_remote, batch)) if isinstance(batch, (list, tuple)) else batch


@functools.wraps(data.random_split)
def random_split(dataset: Any, lengths: Any, generator: torch.Generator | None = None) -> Any:
    if not _is_session(generator):
        return data.random_split(dataset, lengths, generator)
    with session_randomness(generator):
        return data.random_split(dataset, lengths, generator or torch.default_generator)
