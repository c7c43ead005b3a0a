"""Composites that run here under autograd, and their backward.

On the client, attention or an LSTM would be decomposed into small operators. Here PyTorch itself chooses the device's best
kernel, and `gt::backward` gives that kernel's own gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch

# taken at import, on a thread that is under no guard: what dispatch looks like for an ordinary program
_INCLUDED = torch._C._dispatch_tls_local_include_set()
_EXCLUDED = torch._C._dispatch_tls_local_exclude_set()


class Graph:
    """The inputs of backward: a leaf for each operand (None: not differentiated) and the results with their history."""

    __slots__ = ("inputs", "outputs")

    def __init__(self, inputs: list[torch.Tensor | None], outputs: list[torch.Tensor | None]) -> None:
        self.inputs = inputs
        self.outputs = outputs


def all_keys() -> AbstractContextManager[None]:
    """A context in which dispatch is an ordinary program's, not below autograd: some sparse kernels need its views."""
    return torch._C._ForceDispatchKeyGuard(_INCLUDED, _EXCLUDED)  # type: ignore[no-any-return]


@contextmanager
def autograd(grad_mode: bool = True) -> Iterator[None]:
    """A context with `all_keys` that records a graph in `grad_mode`. Backward stays on this thread."""
    multithreaded = torch.autograd.set_multithreading_enabled(False)
    with all_keys(), multithreaded, torch.set_grad_enabled(grad_mode):
        yield


def leaves(operands: Sequence[torch.Tensor], wanted: Sequence[int] | None) -> list[torch.Tensor | None]:
    """For each operand, an alias that requires a gradient; None where its dtype has none or `wanted` (if given) lacks it."""
    return [
        operand.detach().requires_grad_()
        if (operand.is_floating_point() or operand.is_complex()) and (wanted is None or index in wanted)
        else None
        for index, operand in enumerate(operands)
    ]


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
    inputs = [graph.inputs[index] for index in wanted]
    if any(leaf is None for leaf in inputs):
        raise RuntimeError("gt::backward: an operand that was not differentiated has no gradient")
    pairs = [
        (out, grad)
        for out, grad in zip(graph.outputs, grads, strict=True)
        if isinstance(grad, torch.Tensor) and out is not None and out.requires_grad
    ]
    with autograd():
        found = (
            torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
            if pairs
            else [None] * len(inputs)
        )
        return [torch.zeros_like(leaf) if g is None else g.detach() for g, leaf in zip(found, inputs, strict=True)]  # type: ignore[arg-type, union-attr]
