"""`linear` as one instruction forward and one backward, with PyTorch's own autograd node for it.

PyTorch composes it of a transpose, a product and views: four calls forward and eight backward. The node that it has for
backends with a kernel of their own makes one each. That node calls `linear_backward`, which a CPU does not have: the worker
has an extra kernel for it. Forward-mode AD does not know the node, so the parts are used while a dual level is open.

The node saves the weight itself, where the parts would save a view of its memory. So a weight whose memory was replaced
since (`weight.data = ...`) is not the one of the forward pass, and the backward pass is refused.

It also saves the input of a frozen weight, which the parts do not: an adapter would train with more memory. So from the
first such weight on, these are composed; not of a sharded session, whose planner knows more of `linear` than of the parts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils.weak import WeakIdKeyDictionary

from gt.client.kernels.kernel import kernel
from gt.client.session.configured import configured
from gt.client.stream import operands
from gt.client.stream.isolation import is_transformed

aten = torch.ops.aten
_linear = kernel(aten.linear.default)
_linear_backward = kernel(aten.linear_backward.default)


def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`linear`, one instruction; with a trained weight and a strided input, as `matmul` composes it."""
    if not registration.composes and _is_frozen(input, weight) and configured.sharding is None:
        registration.compose_frozen()
    if not input.is_contiguous() and input.dim() > 2 and weight.requires_grad:
        # as `matmul` does for a trained weight: the bits depend on it
        rows = _linear(input.reshape(-1, input.shape[-1]), weight)
        out = rows.view(*input.shape[:-1], *weight.shape[:-1])
        return out if bias is None else out.add_(bias)  # type: ignore[no-any-return]
    return _linear(input, weight) if bias is None else _linear(input, weight, bias)  # type: ignore[no-any-return]


def _is_frozen(input: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the input will get a gradient, and the weight will not."""
    return not weight.requires_grad and input.requires_grad and torch.is_grad_enabled()


def _leaving_inputs(whole: Any) -> Callable[..., torch.Tensor]:
    """The autograd kernel of `linear` that composes it with a frozen weight; `whole` makes the node."""

    def run(keys: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if _is_frozen(input, weight):
            return aten.linear.default.decompose(input, weight, bias)  # type: ignore[no-any-return]
        return whole.call_boxed(keys, input, weight, bias)  # type: ignore[no-any-return]

    return run


def linear_backward(input: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, mask: Sequence[bool]) -> Any:
    """One instruction, or the decomposed operator for a gradient that is differentiated again or counted."""
    if mask[0] and _replaced:
        _check_replaced(weight)
    if input.is_sparse or weight.is_sparse:
        return (
            grad @ weight.conj() if mask[0] else None,
            (input.t().conj() @ grad).t() if mask[1] else None,
            grad.sum(0) if mask[2] else None,
        )
    if not (torch.is_grad_enabled() or registration.counters or is_transformed((grad,))):
        return _linear_backward(input, grad, weight, mask)
    count, outputs, columns = input.shape[:-1].numel(), weight.shape[:-1].numel(), input.shape[-1]
    rows, grads = input.reshape(count, columns), grad.reshape(count, outputs)
    return (
        (grads @ weight.reshape(outputs, columns).conj()).view(input.shape) if mask[0] else None,
        (grads.t() @ rows.conj()).view(weight.shape) if mask[1] else None,
        grads.sum(0) if mask[2] else None,
    )


# -- weights whose memory was replaced -----------------------------------------------------------------------------------

_replaced = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]
"""Tensor -> for each time its memory was replaced: autograd's sequence number then, and the storage until then."""
KEPT = 16


def note_replaced(tensor: torch.Tensor, before: int) -> None:
    """Note that the tensor's storage was `before` until now."""
    if tensor._use_count() == 1:  # type: ignore[attr-defined]  # no graph holds it
        _replaced.pop(tensor, None)
        return
    noted = [*_replaced.get(tensor, ()), (torch._C._autograd._get_sequence_nr(), before)]
    if len(noted) > KEPT:
        noted = [(noted[-KEPT][0], 0), *noted[-KEPT + 1 :]]  # what was before is not known any more; no storage has the id 0
    _replaced[tensor] = noted


def _check_replaced(weight: torch.Tensor) -> None:
    made = torch._C._current_autograd_node()._sequence_nr()  # type: ignore[attr-defined]
    then = next((storage for number, storage in _replaced.get(weight, ()) if number > made), None)
    if then is not None and then != operands.operand(weight)[0]:
        raise RuntimeError(
            "the memory of a weight was replaced (`weight.data = ...`, or its module was converted) between the forward pass"
            " and the backward pass, which needs the weight as it was. Call backward() before that"
        )


class Registration:
    """The registration of the kernel of `linear`: withdrawn while a dual level is open, or operations are counted or
    traced."""

    def __init__(self) -> None:
        self.counters = 0
        """The number of active `FlopCounterMode`s and profilers."""
        self.tracers = 0
        """The number of traces being made."""
        self.composes = False
        """Whether `linear` with a frozen weight is composed."""
        self._library: torch.library.Library | None = None

    def compose_frozen(self) -> None:
        """From now on compose `linear` with frozen weights."""
        self.composes = True
        if self._library is not None:
            self._register_composing(self._library)

    def _register_composing(self, library: torch.library.Library) -> None:
        whole = torch.library.get_kernel("aten::linear", "AutogradPrivateUse1")
        library.impl("linear", _leaving_inputs(whole), "AutogradPrivateUse1", with_keyset=True)

    def update(self) -> None:
        """Register the kernel or withdraw it, by the modes that are active now."""
        wanted = not (forward_ad._current_level >= 0 or self.counters or self.tracers)
        if wanted and self._library is None:
            self._library = torch.library.Library("aten", "IMPL")
            self._library.impl("linear", linear, "PrivateUse1")
            if self.composes:
                self._register_composing(self._library)
        elif not wanted and self._library is not None:
            self._library._destroy()
            self._library = None


registration = Registration()


def watching_levels(original: Callable[..., Any]) -> Callable[..., Any]:
    """The patch of the functions that open and close levels of forward-mode AD."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        finally:
            registration.update()

    return call


def watching_tracers(original: Callable[..., Any]) -> Callable[..., Any]:
    """The patch of the entries of `torch.jit.trace`, which cannot record the mask of `linear_backward`."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        registration.tracers += 1
        registration.update()
        try:
            return original(*args, **kwargs)
        finally:
            registration.tracers -= 1
            registration.update()

    return call


def register(library: torch.library.Library) -> None:
    """Register the kernels of `linear` and its backward."""
    for key in ("PrivateUse1", "AutogradPrivateUse1"):
        library.impl("linear_backward", linear_backward, key, allow_override=True)
    registration.update()
