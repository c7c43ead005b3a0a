"""Patches of printing: a remote tensor prints as on the CPU, from one fetch. In a ported program its device, the default, is
not named.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from gt.client.patches import node_names
from gt.client.session.random_sequence import sequence

Tensor = torch.Tensor


class _Printed(threading.local):
    """The remote tensor that a thread is printing."""

    tensor: Tensor | None = None


_printed = _Printed()


def elements(original: Callable[[Tensor, int], str]) -> Callable[[Tensor, int], str]:
    """The patch of the function that prints elements."""

    def tensor_str(self: Tensor, indent: int) -> str:
        return original(self.detach().cpu() if self.device.type == "remote" else self, indent)

    return tensor_str


def text(original: Callable[..., str]) -> Callable[..., str]:
    """The patch of the function that prints all of a tensor."""

    def str_intern(inp: Tensor, *, tensor_contents: str | None = None) -> str:
        if inp.device.type != "remote":
            return original(inp, tensor_contents=tensor_contents)
        outer, _printed.tensor = _printed.tensor, inp
        default = torch._C._get_default_device
        if sequence.joined:
            torch._C._get_default_device = lambda: "remote"
        try:
            return original(inp, tensor_contents=tensor_contents)
        finally:
            torch._C._get_default_device = default
            _printed.tensor = outer

    return str_intern


def suffixes(original: Callable[..., str]) -> Callable[..., str]:
    """The patch of the function that adds the dtype, `grad_fn` and the like, on a new line where they are too long."""

    def add_suffixes(tensor_str: str, suffixes: list[str], *options: Any, **named: Any) -> str:
        if _printed.tensor is not None:
            suffixes = [node_names.renamed(_printed.tensor, suffix) for suffix in suffixes]
        return original(tensor_str, suffixes, *options, **named)

    return add_suffixes


def without_device(original: Callable[[Any], str]) -> Callable[[Any], str]:
    """`extra_repr` of lists and dicts of parameters."""

    def extra_repr(self: Any) -> str:
        text = original(self)
        return text.replace(" (remote:0)", "").replace("torch.remote.", "torch.") if sequence.joined else text

    return extra_repr
