"""Composites that run here under autograd, and their backward.

On the client, attention or an LSTM would be decomposed into small operators. Here PyTorch itself chooses the device's best
kernel, and `gt::backward` gives that kernel's own gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

# taken at import, on a thread that is under no guard: what dispatch looks like for an ordinary program
_INCLUDED = torch._C._dispatch_tls_local_include_set()
_EXCLUDED = torch._C._dispatch_tls_local_exclude_set()
_run_backward = torch._C._ImperativeEngine().run_backward


class Graph:
    """The inputs of backward: a leaf for each operand (None: not differentiated) and the results with their history."""

    __slots__ = ("inputs", "is_kept", "outputs", "random_state")

    def __init__(
        self,
        inputs: list[torch.Tensor | None],
        outputs: list[torch.Tensor | None],
        random_state: torch.Tensor | None = None,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.random_state = random_state
        """The generator's state before the call (uint8, on the CPU); None for one that has no dropout in it."""
        self.is_kept = True
        """The client may come back to it after the next backward pass."""


def all_keys() -> AbstractContextManager[None]:
    """A context in which dispatch is an ordinary program's, not below autograd: some sparse kernels need its views."""
    return torch._C._ForceDispatchKeyGuard(_INCLUDED, _EXCLUDED)  # type: ignore[no-any-return]


class _Autograd:
    """Sets PyTorch's flags themselves, since it is entered twice for every cell of a recurrent layer."""

    __slots__ = ("_grad_mode", "_keys", "_was")

    def __init__(self, grad_mode: bool) -> None:
        self._grad_mode = grad_mode

    def __enter__(self) -> None:
        self._was = torch.is_grad_enabled(), torch._C._is_multithreading_enabled()
        self._keys = all_keys()
        self._keys.__enter__()
        torch._C._set_multithreading_enabled(False)
        torch._C._set_grad_enabled(self._grad_mode)

    def __exit__(self, *_: object) -> None:
        grad_mode, multithreading = self._was
        torch._C._set_grad_enabled(grad_mode)
        torch._C._set_multithreading_enabled(multithreading)
        self._keys.__exit__(None, None, None)


def autograd(grad_mode: bool = True) -> AbstractContextManager[None]:
    """A context with `all_keys` that records a graph in `grad_mode`. Backward stays on this thread."""
    return _Autograd(grad_mode)


def leaves(operands: Sequence[torch.Tensor], wanted: Sequence[bool]) -> list[torch.Tensor | None]:
    """For each operand that is `wanted` an alias that requires a gradient; None for the others."""
    return [o.detach().requires_grad_() if w else None for o, w in zip(operands, wanted, strict=True)]


def gradients(
    outs: Sequence[torch.Tensor], grads: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], keep: bool = False
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of inputs, within `autograd`; None for one without. `keep`: what the graph saved is not freed.

    `torch.autograd.grad` without what it does around the engine, which takes longer than a small kernel.
    """
    return _run_backward(tuple(outs), tuple(grads), keep, False, tuple(inputs), True, False)


def random_state(graph: object) -> torch.Tensor:
    """`gt::random_state(graph)`: the generator's state (uint8) from which the call drew. Raises TypeError without one."""
    if not isinstance(graph, Graph) or graph.random_state is None:
        raise TypeError("gt::random_state: the operand is not the graph of a call with dropout")
    device = next(out.device for out in graph.outputs if out is not None)
    return graph.random_state.to(device, copy=True)


def backward(graph: object, *rest: object) -> list[torch.Tensor]:
    """`gt::backward(graph, grad of each result..., wanted operands)`: the gradients of the wanted operands, zeros for none.

    Raises TypeError for arguments of another type, RuntimeError for an operand that was not differentiated.
    """
    if not isinstance(graph, Graph):
        raise TypeError("gt::backward: the first operand is not a graph")
    *grads, wanted = rest
    if len(grads) == 1 and isinstance(grads[0], list | tuple):
        grads = list(grads[0])
    if not isinstance(wanted, list):
        raise TypeError("gt::backward: the last argument must list the operands whose gradients are wanted")
    inputs = [leaf for index in wanted if (leaf := graph.inputs[index]) is not None]
    if len(inputs) < len(wanted):
        raise RuntimeError("gt::backward: an operand that was not differentiated has no gradient")
    outs, given = [], []
    for out, grad in zip(graph.outputs, grads, strict=True):
        if isinstance(grad, torch.Tensor) and out is not None and out.requires_grad:
            if grad.shape != out.shape or grad.is_complex() != out.is_complex():
                raise RuntimeError("gt::backward: a gradient is not like its result")
            outs.append(out)
            given.append(grad)
    if not outs:
        return [torch.zeros_like(leaf) for leaf in inputs]
    with autograd():
        found = gradients(outs, given, inputs, graph.is_kept)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, inputs, strict=True)]
