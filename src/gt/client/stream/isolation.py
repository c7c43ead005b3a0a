"""Isolates the client's own computations from the program's modes: neither affects the other.

PyTorch's tracer makes tensors of the sizes that Python reads, modes and transforms see what is computed on stand-ins,
autocast casts it, hooks are handed what it saves. None of that may enter what is learnt about a call, which outlives the
mode.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch._ops import _len_torch_dispatch_stack_pre_dispatch
from torch.utils._python_dispatch import _disable_current_modes

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
tracing = torch._C._is_tracing
"""Whether `torch.jit.trace` is running."""


def untraced(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """For functions that read sizes: under PyTorch's tracer these would be tensors, and nodes of its graph."""

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if not tracing():
            return function(*args, **kwargs)
        with _without_tracing():
            return function(*args, **kwargs)

    return call


_TRACER = torch._C._dispatch_key_parse("Tracer")


@contextmanager
def _without_tracing() -> Iterator[None]:
    """Where PyTorch itself excludes the tracer's dispatch key, the state cannot be set: the exclusion is lifted
    meanwhile."""
    state = torch._C._get_tracing_state()
    held_back = torch._C._dispatch_tls_is_dispatch_key_excluded(_TRACER)
    torch._C._dispatch_tls_set_dispatch_key_excluded(_TRACER, False)
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)
        torch._C._dispatch_tls_set_dispatch_key_excluded(_TRACER, held_back)


_AUTOCAST = functools.reduce(
    lambda one, other: one | other,
    [torch._C.DispatchKeySet(k) for name, k in torch._C.DispatchKey.__members__.items() if name.startswith("Autocast")],
)


@contextmanager
def _without_hooks() -> Iterator[None]:
    """Hooks on tensors that autograd saves are not called, as under PyTorch's tracer."""
    before = torch._C._autograd._saved_tensors_hooks_set_tracing(True)
    try:
        yield
    finally:
        torch._C._autograd._saved_tensors_hooks_set_tracing(before)


@contextmanager
def _without_profiler() -> Iterator[None]:
    """A profiler does not see what is called."""
    torch._C._autograd._enable_record_function(False)
    try:
        yield
    finally:
        torch._C._autograd._enable_record_function(True)


SWITCHED_ON: tuple[tuple[Callable[[], Any], Callable[[], AbstractContextManager[Any]]], ...] = (
    (tracing, _without_tracing),
    (torch._C._autograd._profiler_enabled, _without_profiler),
    (torch.is_anomaly_enabled, lambda: torch.autograd.set_detect_anomaly(False)),  # type: ignore[no-untyped-call]
    (torch._C._is_any_autocast_enabled, lambda: torch._C._ExcludeDispatchKeyGuard(_AUTOCAST)),
    (torch._C._len_torch_function_stack, torch._C.DisableTorchFunction),
    (torch._C._len_torch_dispatch_stack, _disable_current_modes),
    (_len_torch_dispatch_stack_pre_dispatch, _disable_current_modes),
    (lambda: torch._C._autograd._top_saved_tensors_default_hooks(True), _without_hooks),
)
"""Modes that a program may be in: a test for each, and a context that keeps it from seeing and changing what is computed."""


@contextmanager
def isolated() -> Iterator[None]:
    """For computing with stand-ins of remote tensors: no mode, transform, hook or tracer of the program's takes part."""
    with ExitStack() as stack:
        for is_on, without in SWITCHED_ON:
            if is_on():
                stack.enter_context(without())
        yield


_INFRASTRUCTURE = tuple(torch._C._TorchDispatchModeKey.__members__.values())
"""PyTorch's modes for tracing programs: fake tensors, proxies, functional tensors."""
_PLAIN = torch.Tensor.__torch_dispatch__


def is_transformed(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether operators are being traced, transformed or called with fake tensors, none of which sees what happens below an
    operator."""
    if tracing() or torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    if torch._C._len_torch_dispatch_stack() and any(map(torch._C._get_dispatch_mode, _INFRASTRUCTURE)):
        return True
    return any(type(t).__torch_dispatch__ is not _PLAIN for t in tensors)
