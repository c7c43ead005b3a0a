"""Entering PyTorch's autograd engine: on the caller's thread, and with hooks that may raise.

An exception inside a hook would end in `std::terminate` (a C++ destructor calls Python with the error set). So a hook that
raises, or returns something that makes PyTorch raise a Python error, stores its exception here and returns something that
C++ itself rejects. Where Python entered the engine, the stored exception replaces the rejection.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from typing import Any

import torch

from gt.client.kernels.composites import is_of_composite
from gt.client.patches.marks import marks
from gt.client.session.process import process
from gt.client.stream import sites
from gt.client.stream.segment import recorder
from gt.waiting import interruptible


class Running(threading.local):
    """The runs of the engine that this thread has entered, innermost last: for each, the first exception of a hook."""

    def __init__(self) -> None:
        self.kept: list[BaseException | None] = []


_running = Running()
_elsewhere: list[BaseException] = []
"""Exceptions of hooks on the engine's own threads, which it uses once runs are nested sixty deep."""


def _guard(hook: Callable[..., Any], check: Callable[..., None], reject: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook, updated=())
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            result = _called(hook, args, kwargs)
            check(result, *args)
            return result
        except BaseException as error:
            if torch._C._current_graph_task_id() == -1:
                raise
            _keep(error)
            return reject(*args)

    return guarded


@interruptible
def _called(hook: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return hook(*args, **kwargs)


def _keep(error: BaseException) -> None:
    if not _running.kept:
        _elsewhere.append(error)
    elif _running.kept[-1] is None:
        _running.kept[-1] = error


# -- per kind of hook: what PyTorch raises a Python error about, and what C++ rejects by itself -----------------------------


def _anything(*_: Any) -> None:
    return None


def _expect_gradient(result: Any, *_: Any) -> None:
    if not (result is None or isinstance(result, torch.Tensor)):
        raise TypeError(f"expected Variable, but hook returned '{type(result).__name__}'")


def _expect_gradients(result: Any, given: tuple[Any, ...], *_: Any) -> None:
    if not (result is None or isinstance(result, tuple)):
        raise TypeError(f"expected tuple, but hook returned '{type(result).__name__}'")
    if result is not None and len(result) == len(given):
        for value in result:
            _expect_gradient(value)


def wrong_size(gradient: torch.Tensor | None) -> torch.Tensor:
    """A gradient that C++ rejects: of another size, or one where there is none."""
    if gradient is None:
        return torch.empty(0, device="cpu")
    return gradient.new_empty(tuple(n + 1 for n in gradient.shape) or (2,))


def _wrong_number(given: tuple[Any, ...], *_: Any) -> tuple[None, ...]:
    return (None,) * (len(given) + 1)


def _not_a_tensor(*_: Any) -> str:
    return "rejected"


# -- entering --------------------------------------------------------------------------------------------------------------


def entering(run: Callable[..., Any]) -> Callable[..., Any]:
    """The patch of the function by which Python enters the engine."""

    @functools.wraps(run)
    def entry(*args: Any, **kwargs: Any) -> Any:
        thread = threading.get_ident()
        outer, site = sites.fixed.get(thread), sites.here(2)
        _running.kept.append(None)
        failed: BaseException | None = None
        try:
            sites.fixed[thread] = site
            with torch.autograd.set_multithreading_enabled(False):
                result = run(*args, **kwargs)
        except BaseException as error:
            failed = error
        finally:
            if outer is None:
                sites.fixed.pop(thread, None)
            else:
                sites.fixed[thread] = outer
            kept = _running.kept.pop()
        if failed is not None and kept is None and _elsewhere:
            kept = _elsewhere.pop()
        if kept is not None:
            raise kept from None
        if failed is not None:
            raise _as_on_a_cpu(failed)
        marks.end_of_backward()
        if len(recorder.segment) >= BOUNDARY:
            process.flush()
        return result

    return entry


def _as_on_a_cpu(error: BaseException) -> BaseException:
    """An error of the engine may name a tensor's type; it is given the name of the CPU's."""
    error.args = tuple(re.sub(r"\bremote(\w+)Type\b", r"torch.\1Tensor", a) if isinstance(a, str) else a for a in error.args)
    return error


BOUNDARY = 64
"""The end of a backward pass sends a segment of at least this many instructions; a shorter one waits for more."""


# -- where hooks are registered --------------------------------------------------------------------------------------------


def guarding_tensor_hook(reject: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The patch of a method that registers a tensor's hook; `reject` makes a result that C++ rejects."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def register(self: Any, hook: Callable[..., Any]) -> Any:
            called = _where_used(hook) if is_of_composite(self) else hook
            return original(self, _guard(called, _expect_gradient, reject))

        return register

    return wrap


def _where_used(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of one of several results of a composite: a CPU's composed graph leads to those that were used."""

    @functools.wraps(hook, updated=())
    def called(gradient: torch.Tensor | None) -> Any:
        return None if gradient is None else hook(gradient)

    return called


def guarding_node_hook(original: Callable[..., Any]) -> Any:
    """Hooks and pre-hooks of autograd nodes of every kind: the one place where PyTorch's C++ registers them."""

    @functools.wraps(original)
    def register(hooks: Any, hook: Callable[..., Any]) -> Any:
        return original(hooks, _guard(hook, _expect_gradients, _wrong_number))

    return staticmethod(register)


def guarding_unpacking(original: Callable[..., Any]) -> Callable[..., Any]:
    """Hooks of saved tensors."""

    @functools.wraps(original)
    def take(self: Any, pack: Callable[..., Any], unpack: Callable[..., Any]) -> Any:
        return original(self, pack, _guard(unpack, _anything, _not_a_tensor))

    return take
