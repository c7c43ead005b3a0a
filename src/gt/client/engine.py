"""Entering PyTorch's autograd engine: on the caller's thread, and with hooks that may raise.

An exception inside a hook would end in `std::terminate` (a C++ destructor calls Python with the error set). So a hook
that raises keeps its exception here and returns what C++ itself rejects; where Python entered the engine, the kept
exception is raised instead of the rejection.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.graph as graph
from torch.utils.hooks import BackwardHook

from gt.client import interrupts, record, sites

_kept = threading.local()


def _guard(hook: Callable[..., Any], reject: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook, updated=())
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            with interrupts.LetThrough():
                return hook(*args, **kwargs)
        except BaseException as error:
            if getattr(_kept, "depth", 0) == 0:
                raise
            _kept.error = getattr(_kept, "error", None) or error
            return reject(*args)

    return guarded


def _wrong_size(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.new_empty(tuple(n + 1 for n in gradient.shape) or (2,))


def _no_tensor(*_: Any) -> str:
    return "rejected"


def _nothing(*_: Any) -> None:
    return None


def _wrong_gradients(*gradients: Any) -> Any:
    """What a node's hook returns after it raised: gradients of another number than the node has."""
    return (None,) * (len(gradients[0]) + 1)


def _enter(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def entry(*args: Any, **kwargs: Any) -> Any:
        outer, sites.Fixed.site = sites.Fixed.site, sites.here(2)
        _kept.depth = getattr(_kept, "depth", 0) + 1
        try:
            with interrupts.HeldBack(), torch.autograd.set_multithreading_enabled(False):
                result = run(*args, **kwargs)
        except BaseException:
            _raise_kept()
            raise
        finally:
            sites.Fixed.site = outer
            _kept.depth -= 1
        _raise_kept()
        if len(record.segment) >= BOUNDARY:
            record.Flush.send()
        return result

    return entry


BOUNDARY = 64
"""The end of a backward pass sends a segment that is at least this long; a shorter one waits for company."""


def _raise_kept() -> None:
    error = getattr(_kept, "error", None)
    if error is not None and _kept.depth <= 1:
        _kept.error = None
        raise error from None


def _patch(owner: Any, name: str, reject: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def register(self: Any, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return original(self, _guard(hook, reject), *args, **kwargs)

    setattr(owner, name, register)


class _GuardedNode:
    """An autograd node whose hooks may raise."""

    def __init__(self, node: Any) -> None:
        self.node = node

    def register_hook(self, hook: Callable[..., Any]) -> Any:
        return self.node.register_hook(_guard(hook, _wrong_gradients))


def _guard_module_hooks() -> None:
    original = BackwardHook._apply_on_tensors

    @functools.wraps(original)
    def apply(self: Any, fn: Callable[..., Any], args: Any) -> Any:
        return original(self, lambda node: fn(_GuardedNode(node)), args)

    BackwardHook._apply_on_tensors = apply


def _guard_saved_tensors() -> None:
    original = graph.saved_tensors_hooks.__init__

    @functools.wraps(original)
    def init(self: Any, pack: Callable[..., Any], unpack: Callable[..., Any]) -> None:
        original(self, pack, _guard(unpack, _no_tensor))

    graph.saved_tensors_hooks.__init__ = init  # type: ignore[assignment]


def install() -> None:
    _patch(torch.Tensor, "register_hook", _wrong_size)
    _patch(torch.Tensor, "register_post_accumulate_grad_hook", _nothing)
    _guard_module_hooks()
    _guard_saved_tensors()
    run = _enter(graph._engine_run_backward)
    graph._engine_run_backward = run
    torch.autograd._engine_run_backward = run  # type: ignore[attr-defined]
