"""Tracers, modes and transforms that a program may run a module under: each a function that returns values to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, functionalize, grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode

Module = torch.nn.Module
Call = tuple[tuple[Any, ...], dict[str, Any]]
Mode = Callable[[Module, Call, Call], Any]
"""Takes a module, a call to trace it with, and another call of the same sizes to check the trace."""


def _flat(module: Module, call: Call) -> tuple[Callable[..., Any], list[torch.Tensor]]:
    """The module as a function of tensors: its parameters, buffers and tensor arguments."""
    leaves, spec = tree_flatten((dict(module.named_parameters()), dict(module.named_buffers()), call))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def run(*tensors: torch.Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        parameters, buffers, (args, kwargs) = tree_unflatten(filled, spec)
        return functional_call(module, {**parameters, **buffers}, args, kwargs)

    return run, [leaves[i].detach() for i in places]


def _scalar(out: Any) -> torch.Tensor:
    """A number that depends on every floating result."""
    return sum((t.sum() for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.is_floating_point()), torch.zeros(()))


def _seeded(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    torch.manual_seed(7)
    return function(*args, **kwargs)


def _traced(module: Module, call: Call, other: Call) -> Any:
    args, kwargs = call
    given = {"example_kwarg_inputs": {**kwargs}} if kwargs and not args else {"example_inputs": args}
    if kwargs and args:
        raise NotImplementedError("traced with positional arguments or with named ones")
    made = _seeded(torch.jit.trace, module, **given, check_trace=False)
    return _seeded(made, *other[0], **other[1])


def _graph(kind: str) -> Mode:
    def run(module: Module, call: Call, other: Call) -> Any:
        function, tensors = _flat(module, call)
        made = _seeded(make_fx(function, tracing_mode=kind, _allow_non_fake_inputs=True), *tensors)
        return _seeded(made, *_flat(module, other)[1])

    return run


def _fakes(module: Module, call: Call, other: Call) -> Any:
    function, tensors = _flat(module, call)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        made = function(*[mode.from_tensor(t) for t in tensors])
    return tree_map(lambda t: (t.shape, t.stride(), t.dtype) if isinstance(t, torch.Tensor) else t, made)


def _floats(tensors: list[torch.Tensor]) -> tuple[int, ...]:
    return tuple(i for i, t in enumerate(tensors) if t.is_floating_point())


def _grad(module: Module, call: Call, other: Call) -> Any:
    function, tensors = _flat(module, other)
    return _seeded(grad(lambda *given: _scalar(function(*given)), _floats(tensors)), *tensors)


def _vmap(module: Module, call: Call, other: Call) -> Any:
    function, tensors = _flat(module, other)
    stacked = [torch.stack([t, t]) for t in tensors]
    return _seeded(vmap(function, randomness="different"), *stacked)


def _jvp(module: Module, call: Call, other: Call) -> Any:
    function, tensors = _flat(module, other)
    floats = _floats(tensors)

    def of_floats(*given: torch.Tensor) -> Any:
        filled = list(tensors)
        for place, tensor in zip(floats, given, strict=True):
            filled[place] = tensor
        return function(*filled)

    primals = tuple(tensors[i] for i in floats)
    return _seeded(jvp, of_floats, primals, tuple(torch.ones_like(t) for t in primals))


def _functionalized(module: Module, call: Call, other: Call) -> Any:
    function, tensors = _flat(module, other)
    return _seeded(functionalize(function), *tensors)


def _exported(module: Module, call: Call, other: Call) -> Any:
    made = _seeded(torch.export.export, module, *call, strict=False).module()
    return _seeded(made, *other[0], **other[1])


MODES: dict[str, Mode] = {
    "trace": _traced,
    "graph": _graph("real"),
    "graph of fakes": _graph("fake"),
    "symbolic graph": _graph("symbolic"),
    "fakes": _fakes,
    "grad": _grad,
    "vmap": _vmap,
    "jvp": _jvp,
    "functionalize": _functionalized,
    "export": _exported,
}


# -- functions of tensors --------------------------------------------------------------------------------------------------

Function = Callable[..., Any]
Rehearsal = Callable[[Function, tuple[torch.Tensor, ...]], Any]


def _switched(on: Callable[[], AbstractContextManager[Any]]) -> Rehearsal:
    def run(function: Function, tensors: tuple[torch.Tensor, ...]) -> Any:
        with on():
            return function(*tensors)

    return run


def _on_fakes(function: Function, tensors: tuple[torch.Tensor, ...]) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return function(*map(mode.from_tensor, tensors))


def _differentiated(function: Function, tensors: tuple[torch.Tensor, ...]) -> Any:
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
    return torch.autograd.grad(_scalar(function(*leaves)), leaves, allow_unused=True)


@contextmanager
def _set(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


REHEARSALS: dict[str, Rehearsal] = {
    "trace": lambda function, tensors: torch.jit.trace(function, tensors, check_trace=False),
    "graph": lambda function, tensors: make_fx(function)(*tensors),
    "graph of fakes": lambda function, tensors: make_fx(function, tracing_mode="fake")(*tensors),
    "symbolic graph": lambda function, tensors: make_fx(function, tracing_mode="symbolic")(*tensors),
    "fakes": _on_fakes,
    "grad": lambda function, tensors: grad(lambda *given: _scalar(function(*given)))(*(t.detach() for t in tensors)),
    "vmap": lambda function, tensors: vmap(function, randomness="different")(*tensors),
    "jvp": lambda function, tensors: jvp(lambda one: function(one, *tensors[1:]), tensors[:1], tensors[:1]),
    "functionalize": lambda function, tensors: functionalize(function)(*tensors),
    "dual level": _switched(forward_ad.dual_level),
    "no grad": _switched(torch.no_grad),
    "inference": _switched(torch.inference_mode),
    "autocast": _switched(lambda: torch.autocast("remote", torch.bfloat16)),
    "the CPU's autocast": _switched(lambda: torch.autocast("cpu", torch.bfloat16)),
    "deterministic": _switched(
        lambda: _set(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True)
    ),
    "another default dtype": _switched(lambda: _set(torch.get_default_dtype, torch.set_default_dtype, torch.float64)),
    "another default device": _switched(lambda: torch.device("meta")),
    "flops": _switched(lambda: FlopCounterMode(display=False)),
    "anomaly": lambda function, tensors: _switched(torch.autograd.detect_anomaly)(
        lambda *given: _differentiated(function, given), tensors
    ),
    "hooks": lambda function, tensors: _switched(lambda: saved_tensors_hooks(_same, _same))(
        lambda *given: _differentiated(function, given), tensors
    ),
}
"""How a function is run before the compared run; its results and errors are ignored."""
