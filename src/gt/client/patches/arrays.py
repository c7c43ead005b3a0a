"""Patches for other libraries' arrays: on a CPU they share a tensor's memory, here they have a copy of its elements."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy
import torch

from gt.client.kernels import copies
from gt.client.patches.patch import for_remote
from gt.client.session.shared_arrays import links

Tensor = torch.Tensor
Array = numpy.ndarray[Any, Any]


@for_remote
def to_numpy(original: Callable[..., Array], self: Tensor, *, force: bool = False) -> Array:
    """With PyTorch's refusals for a CPU tensor, and what is written to the one is copied to the other."""
    if self.requires_grad and not force:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
    for bit, is_set in (("conj", self.is_conj()), ("neg", self.is_neg())):
        if is_set and not force:
            name = "conjugate" if bit == "conj" else "negative"
            way = f"Use tensor.resolve_{bit}().numpy() instead."
            raise RuntimeError(f"Can't call numpy() on Tensor that has {name} bit set. {way}")
    if self.layout is not torch.strided or self.is_conj() or self.is_neg():
        return original(self.detach().cpu(), force=force)
    local, seen = copies.fetch_twice(self.detach())
    array = original(local)
    links.add_result(self, array, original(local), seen)
    return array


@for_remote
def from_array(original: Callable[..., Any], self: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The result of a NumPy function on this tensor goes where the tensor is."""
    made = original(self, *args, **kwargs)
    return made.to("remote") if isinstance(made, Tensor) else made


@for_remote
def equals(original: Callable[..., Any], self: Tensor, other: Any) -> Any:
    """The one comparison with an array that PyTorch allows, where C++ makes a CPU tensor of the array."""
    return original(self, torch.as_tensor(other, device="remote") if isinstance(other, numpy.ndarray) else other)


@for_remote
def to_dlpack(original: Callable[..., Any], self: Tensor, **options: Any) -> Any:
    """Another library takes over a copy in this process's memory. PyTorch itself refuses what cannot be taken over."""
    return original(self if self.is_conj() else self.cpu(), **options)


@for_remote
def dlpack_device(original: Callable[..., Any], self: Tensor) -> Any:
    """The CPU, where the copy for another library is."""
    return original(torch.empty(0, device="cpu"))


def element_wise(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A Python function computes every element, in this process, from those of fetched tensors."""

    @functools.wraps(original)
    def method(self: Tensor, *args: Any) -> Tensor:
        if self.device.type != "remote" or self.requires_grad:  # PyTorch refuses the latter
            return original(self, *args)
        local = [a.detach().cpu() if isinstance(a, Tensor) else a for a in (self, *args)]
        self.copy_(original(*local))
        return self

    return method
