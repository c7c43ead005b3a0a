"""Operators whose arguments or form are adjusted before they are recorded."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from gt.client.calls.schemas import OpOverload, overload
from gt.client.kernels.general import Kernel
from gt.client.kernels.kernel import kernel
from gt.client.kernels.registry import Kernels
from gt.client.session.process import process
from gt.client.stream.isolation import tracing

Tensor = torch.Tensor
KERNELS = Kernels()
aten = torch.ops.aten


def _apart_under_autocast(op: OpOverload) -> Kernel:
    """For CPU kernels that call operators which autocast casts: under autocast they are decomposed here, since workers have
    no autocast."""
    whole, parts = kernel(op), torch._C.DispatchKey.CompositeExplicitAutogradNonFunctional

    def run(*args: Any, **kwargs: Any) -> Any:
        return op._op_dk(parts, *args, **kwargs) if torch.is_autocast_enabled("remote") else whole(*args, **kwargs)

    return run


for _name in ("_trilinear", "linalg_pinv.atol_rtol_tensor"):
    KERNELS[_name] = _apart_under_autocast(overload(_name))


_convolve = kernel(aten.convolution.default)


def convolution(*args: Any) -> Any:
    """The worker runs `convolution` itself; the tracer records the `_convolution` that PyTorch makes of it on its own
    devices."""
    if tracing():
        return aten.convolution.default._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args)
    return _convolve(*args)


KERNELS["convolution"] = convolution
KERNELS["_convolution"] = lambda *args: _convolve(*args[:9])


_pack = kernel(aten._pack_padded_sequence.default)


@KERNELS.of("_pack_padded_sequence")
def pack_padded_sequence(input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """The batch sizes, which PyTorch keeps on the CPU, follow from the lengths alone."""
    steps, rows = (input.shape[1], input.shape[0]) if batch_first else (input.shape[0], input.shape[1])
    stand_in = torch.empty(steps, rows, 1, device="cpu")
    sizes = aten._pack_padded_sequence.default(stand_in, lengths.cpu(), False)[1]
    return _pack(input, lengths, batch_first)[0], sizes


_observe = kernel(aten._fused_moving_avg_obs_fq_helper.default)


@KERNELS.of("_fused_moving_avg_obs_fq_helper")
def fused_moving_avg_obs_fq_helper(
    self: Tensor, observer_on: Tensor, fake_quant_on: Tensor, *state: Any, per_row_fake_quant: bool = False, **options: Any
) -> Any:
    """An observer's per-channel state begins empty; it is given its size here, as the operator itself would do."""
    *kept, average, low, high, axis = state[:8]
    per_row = bool(state[8]) if len(state) > 8 else per_row_fake_quant
    if per_row and not kept[0].numel():
        for tensor, start in zip(kept, (math.inf, -math.inf, 1, 0), strict=True):
            tensor.resize_(self.shape[axis]).fill_(start)
    return _observe(self, observer_on, fake_quant_on, *kept, average, low, high, axis, per_row, *state[9:], **options)


# -- group norm: its node makes the operands of its backward pass contiguous on every device but a CPU -------------------

FORMAT = "gt_memory_format"
"""In the metadata of a node of `native_group_norm`: the memory format of its input, if that is not contiguous."""
OTHER_AUTOGRAD = torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradOther)
"""Has the kernel that PyTorch registers for every device, where this one's own key has `group_norm`."""
_normalised_backward = kernel(aten.native_group_norm_backward.default)


def group_norm(keys: torch._C.DispatchKeySet, input: Tensor, *args: Any) -> Any:
    """Autograd's own kernel; the node that it makes is told of an input that is not contiguous."""
    below = keys & torch._C._after_autograd_keyset
    results = aten.native_group_norm.default.redispatch(below | OTHER_AUTOGRAD, input, *args)
    node = results[0].grad_fn
    if node is not None and not input.is_contiguous():
        node.metadata[FORMAT] = suggest_memory_format(input)
    return results


@KERNELS.of("native_group_norm_backward")
def group_norm_backward(grad: Tensor, input: Tensor, *args: Any) -> Any:
    """A CPU's node passes grad and input on in the memory format of the input."""
    node = torch._C._current_autograd_node()
    form = node.metadata.get(FORMAT) if node is not None and process.session().is_on_cpus else None
    if form is None:
        return _normalised_backward(grad, input, *args)
    return _normalised_backward(*(t.contiguous(memory_format=form) for t in (grad, input)), *args)
