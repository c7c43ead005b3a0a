"""Optimizers: several steps in each implementation, in each dtype, on the remote device and on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.testing._internal.common_optimizers import optim_db
from torch.utils._pytree import tree_leaves

from tests.oracle.database import Case, Database, told
from tests.oracle.operators import compare

STEPS = 5
Parameters = list[torch.Tensor]


def _shapes(entry: Any) -> list[tuple[int, ...]]:
    return [(6, 4), (4, 3)] if entry.name == "Muon" else [(6, 4), (4,), (4, 3), (3,)]


def _parameters(entry: Any, dtype: torch.dtype, device: str) -> Parameters:
    generator = torch.Generator().manual_seed(2)
    made = [torch.randn(shape, dtype=dtype, generator=generator) for shape in _shapes(entry)]
    return [t.to(device).requires_grad_() for t in made]


def _loss(parameters: Parameters) -> torch.Tensor:
    """The loss of a small network whose parameters are matrices, or matrices and biases alternating."""
    generator = torch.Generator().manual_seed(4)
    value = torch.randn(5, 6, dtype=parameters[0].dtype, generator=generator).to(parameters[0].device)
    for p in parameters:
        value = (value @ p).tanh() if p.dim() == 2 else value + p
    return (value - 1).abs().pow(2).mean()


def _train(entry: Any, kwargs: dict[str, Any], dtype: torch.dtype, device: str) -> list[Any]:
    """Parameters and state after some steps with the gradients of a loss."""
    parameters = _parameters(entry, dtype, device)
    optimizer = entry.optim_cls(parameters, **copy.deepcopy(kwargs))
    closure = _closure(optimizer, parameters, _sparse if entry.only_supports_sparse_grads else None)
    losses = [optimizer.step(closure) for _ in range(STEPS)]
    return [losses, parameters, _state(optimizer)]


def _closure(optimizer: Any, parameters: Parameters, convert: Callable[[torch.Tensor], torch.Tensor] | None) -> Any:
    def run() -> torch.Tensor:
        optimizer.zero_grad()
        loss = _loss(parameters)
        loss.backward()
        for p in parameters if convert else []:
            p.grad = convert(p.grad)
        return loss

    return run


def _sparse(gradient: torch.Tensor) -> torch.Tensor:
    """The positive part of a gradient as a sparse tensor, like that of an embedding."""
    return (gradient * (gradient > 0)).to_sparse()


def _state(optimizer: Any) -> list[Any]:
    """The state's values, which must be the same on the CPU and the device, wherever they are stored."""
    return [v.detach().cpu() if isinstance(v, torch.Tensor) else v for v in tree_leaves(optimizer.state_dict()["state"])]


def _differentiate(entry: Any, kwargs: dict[str, Any], dtype: torch.dtype, device: str) -> list[Any]:
    """Differentiable steps: gradients with respect to the initial parameters and to the gradients of the steps."""
    first = _parameters(entry, dtype, device)
    moved_by = [(p.detach() * 0.5 + 0.1).requires_grad_() for p in first]
    parameters = [p.clone() for p in first]
    optimizer = entry.optim_cls(parameters, **copy.deepcopy(kwargs))
    for step in range(3):
        for p, g in zip(parameters, moved_by, strict=True):
            p.grad = g * (1 + step)
        optimizer.step()
    wanted = torch.autograd.grad(_loss(parameters), [*first, *moved_by], allow_unused=True)
    return [parameters, list(wanted)]


def _implementations(entry: Any) -> list[tuple[dict[str, bool], Callable[..., list[Any]]]]:
    """The flags that select each implementation, and the function that runs it."""
    flags = [f for f in entry.supported_impls if f != "fused" or "cpu" in entry.supports_fused_on]
    off = dict.fromkeys(flags, False)
    chosen = [({**off, f: True}, _differentiate if f == "differentiable" else _train) for f in flags]
    return [({}, _train), (off, _train), *chosen] if flags else [({}, _train)]


def _dtypes(entry: Any) -> list[torch.dtype]:
    return [torch.float32, torch.float64, *([torch.complex64] if entry.supports_complex else [])]


def _cases(entry: Any) -> list[Case]:
    """(arguments, function, dtype) for every case that the database has for an optimizer."""
    return [
        ({**given.kwargs, **flags}, run, dtype)
        for given in entry.optim_inputs_func("cpu")
        for flags, run in _implementations(entry)
        for dtype in _dtypes(entry)
    ]


def _check(entry: Any, kwargs: dict[str, Any], run: Callable[..., list[Any]], dtype: torch.dtype) -> set[str]:
    """Compare one case. Nothing is compared if the CPU raises."""
    try:
        expected = run(entry, _as_on_a_device(entry, kwargs, dtype), dtype, "cpu")
    except Exception:
        return set()
    with told("steps", f"{kwargs}, {dtype}"):
        compare(expected, run(entry, kwargs, dtype, "remote"))
    return {"steps"}


def _as_on_a_device(entry: Any, kwargs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The arguments for the CPU, so that both use the same implementation. By default PyTorch uses `foreach` on every device
    but the CPU (unless GT uses the loop), and for complex numbers `foreach` and the loop give different results."""
    loops = entry.optim_cls.__name__ in ("ASGD", "NAdam", "RAdam")  # see `modules.looping`
    chooses = dtype.is_complex and "foreach" in entry.supported_impls and "foreach" not in kwargs and not loops
    return {**kwargs, "foreach": True} if chooses else kwargs


OPTIMIZERS = Database(optim_db, ("steps",), _cases, _check)
