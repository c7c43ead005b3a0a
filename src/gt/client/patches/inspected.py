"""A program that `gt explain` or `gt check` runs: what becomes of its training steps, and its end after the last of them.

By hooks of PyTorch's and patches, in such a program only. It ends without running anything after the step, lest it write a
checkpoint of it.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch.optim import optimizer as optimizers

Module = torch.nn.Module
Optimizer = torch.optim.Optimizer


class Inspector(Protocol):
    """Is told what a program does."""

    def inside(self, module: Module) -> AbstractContextManager[object]:
        """A module is called, in this context."""

    def forward(self, root: Module) -> None:
        """A root module is called, that is, outside of any other's call."""

    def backward(self, ends: bool) -> None:
        """A backward pass begins or ends."""

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to make a step."""

    def end(self) -> bool:
        """A training step has ended. Returns whether the program is to end with it."""


class OpenCalls(threading.local):
    """How many calls of modules, and passes of autograd, are open on this thread."""

    modules = 0
    passes = 0


class Steps:
    """Finds where training steps end: when every parameter that has a gradient was seen by an optimizer's step.

    Where some have none that steps, at the next call of a root module that computes gradients, or with the program.
    """

    def __init__(self) -> None:
        self._inspector: Inspector
        self._depth = OpenCalls()
        self._roots: weakref.WeakSet[Module] = weakref.WeakSet()
        self._stepped: set[int] = set()
        """The parameters that were stepped, by the ids of the objects."""
        self._steps_now = False

    def install(self, inspector: Inspector) -> None:
        """Tell the inspector from now on, by PyTorch's hooks of optimizers, and one for the program's end."""
        self._inspector = inspector
        optimizers.register_optimizer_step_pre_hook(self._before)
        optimizers.register_optimizer_step_post_hook(self._after)
        # last in, first out: before the session's end
        threading._register_atexit(self._end_if_stepped)  # type: ignore[attr-defined]

    def calling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The patch of what every call of a module goes through."""

        @functools.wraps(call)
        def called(module: Module, /, *args: Any, **kwargs: Any) -> Any:
            if self._depth.modules == 0:
                self._enter(module)
            self._depth.modules += 1
            try:
                with self._inspector.inside(module):
                    return call(module, *args, **kwargs)
            finally:
                self._depth.modules -= 1

        return called

    def _enter(self, root: Module) -> None:
        if self._depth.passes:
            return  # what a checkpoint computes again belongs to the pass
        if torch.is_grad_enabled() and not self._steps_now:
            self._end_if_stepped()
        self._roots.add(root)
        self._inspector.forward(root)

    def passing(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """The patch of the function by which Python enters the autograd engine."""

        @functools.wraps(run)
        def passes(*args: Any, **kwargs: Any) -> Any:
            outermost = self._depth.passes == 0
            self._depth.passes += 1
            if outermost:
                self._inspector.backward(ends=False)
            try:
                return run(*args, **kwargs)
            finally:
                self._depth.passes -= 1
                if outermost:
                    self._inspector.backward(ends=True)

        return passes

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        self._steps_now = True
        self._inspector.before_step(optimizer)

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        self._steps_now = False
        own = [p for group in optimizer.param_groups for p in group["params"]]
        if any(p.device.type == "remote" for p in own):
            self._stepped |= set(map(id, own))
        waiting = (p for root in self._roots for p in root.parameters() if p.grad is not None and id(p) not in self._stepped)
        if next(waiting, None) is None:
            self._end_if_stepped()

    def _end_if_stepped(self) -> None:
        if self._stepped:
            self._stepped.clear()
            if self._inspector.end():
                leave()


steps = Steps()


def leave() -> None:
    """End this process at once, with what it has printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(0)
