"""Composite operators that travel whole: one instruction forward, one backward.

PyTorch would take them apart on the client, by rules for its own accelerators, and the worker could not choose its best
kernel (the bits would differ from CPU torch as well). The worker runs them under autograd instead and keeps the graph
behind an opaque handle until the client's autograd lets go of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import linear

from gt.client import calls, counting, geometry, kernels, record, sites
from gt.client.calls import Call, OpOverload
from gt.client.geometry import Geometry
from gt.client.lifting import lifted

aten = torch.ops.aten
WHOLE: tuple[OpOverload, ...] = (
    aten.scaled_dot_product_attention.default,
    aten.lstm.input,
    aten.lstm.data,
    aten.gru.input,
    aten.gru.data,
    aten.rnn_tanh.input,
    aten.rnn_tanh.data,
    aten.rnn_relu.input,
    aten.rnn_relu.data,
    aten.lstm_cell.default,
    aten.gru_cell.default,
    aten.rnn_tanh_cell.default,
    aten.rnn_relu_cell.default,
)
RECURRENT = ("aten::lstm_cell", "aten::gru", "aten::rnn_")
"""How the names of operators begin whose parts autocast casts: it does not know them as wholes."""
HANDLE = geometry.intern(torch.Size((0,)), (1,), 0, torch.uint8)
"""What a saved graph looks like to the client: a tensor of nothing, whose end frees the graph."""


def kernel(op: OpOverload) -> Callable[..., Any]:
    """The kernel of a composite operator on the device's autograd key."""
    forward, recurrent = _Forward(op), op._schema.name.startswith(RECURRENT)
    parts = CELLS.get(op._schema.name, op.decompose)

    def run(*args: Any, **kwargs: Any) -> Any:
        if _wants_parts() or (recurrent and torch.is_autocast_enabled("remote")) or counting.wants_parts(op, args, kwargs):
            return parts(*args, **kwargs)
        args = tuple(lifted(op, args))
        tensors = calls.tensors_in((*args, *kwargs.values()))
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
            return forward.run(args, kwargs, tensors, ())[0]
        results = _Whole.apply(forward, args, kwargs, *tensors)  # type: ignore[no-untyped-call]
        return results if len(op._schema.returns) > 1 else results[0]

    return run


def _wants_parts() -> bool:
    """Whether a transform of `torch.func` or forward-mode AD is on, which look at the parts."""
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


class _Forward:
    """The forward calls of one operator, by the geometry and literals of their arguments."""

    def __init__(self, op: OpOverload) -> None:
        self.op = op
        self.cache = calls.new_cache()
        self.backward_cache = calls.new_cache()

    def run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor], graph_of: tuple[int, ...]
    ) -> tuple[Any, torch.Tensor | None]:
        operands = [record.operand(t) for t in tensors]
        specs = [g for _, g, _ in operands]
        key = (tuple(specs), graph_of, _literals(args), _literals(kwargs.items()))
        call = self.cache.get(key)
        if call is None:
            call = self.cache[key] = self._define(args, kwargs, specs, graph_of)
        outs = [record.make(spec) for spec in call.outs]
        # `calls.define` leaves these to each operation
        numbers = tuple(v for v in kwargs.values() if type(v) is float)
        record.record_op(call.number, outs, (*(i for i, _, _ in operands), *numbers), sites.here(3))
        handle = outs.pop() if graph_of else None
        return (tuple(outs) if len(self.op._schema.returns) > 1 else outs[0]), handle

    def _define(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], specs: list[Geometry], graph_of: tuple[int, ...]
    ) -> Call:
        outs: list[Geometry | None] = [*_results(self.op, args, kwargs, specs), *([HANDLE] if graph_of else [])]
        number = calls.define(self.op, args, kwargs, specs, outs, frozenset(), graph_of)
        return Call(number, outs, None, None)

    def backward(
        self, handle: torch.Tensor, grads: list[torch.Tensor | None], specs: list[Geometry], wanted: list[int]
    ) -> list[torch.Tensor]:
        given = [handle, *(g for g in grads if g is not None)]
        operands = [record.operand(t) for t in given]
        ins = [g for _, g, _ in operands]
        key = (tuple(ins), tuple(g is None for g in grads), tuple(specs), tuple(wanted))
        call = self.backward_cache.get(key)
        if call is None:
            outs = [_gradient_of(specs[i]) for i in wanted]
            number = calls.define(self.op, (handle, *grads, wanted), {}, ins, list(outs), frozenset(), name="gt::backward")
            call = self.backward_cache[key] = Call(number, outs, None, None)
        made = [record.make(spec) for spec in call.outs]
        record.record_op(call.number, made, tuple(i for i, _, _ in operands), sites.here(3))
        return made


def _literals(values: Any) -> tuple[Any, ...]:
    """What an argument list says besides its tensors, hashable, types told apart (`1`, `True`, `1.0`)."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(torch.Tensor)
        elif isinstance(value, (list, tuple)):
            found.append(_literals(value))
        else:
            found.append((type(value), value))
    return tuple(found)


def _results(op: OpOverload, args: Any, kwargs: Any, specs: list[Geometry]) -> list[Geometry]:
    """Geometries of the results, as a CPU lays them out."""
    if op._overloadname == "data":
        return _packed_results(args)
    # late import: 0.5 s that only programs with such operators need to spend
    from torch._subclasses.fake_tensor import FakeTensorMode

    disabled = torch.utils._python_dispatch._disable_current_modes
    with torch.no_grad(), disabled(), FakeTensorMode() as mode:
        fakes = iter([torch.empty_strided(s.size, s.stride, dtype=s.dtype) for s in specs])

        def convert(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return next(fakes)
            return [convert(v) for v in value] if isinstance(value, (list, tuple)) else value

        del mode
        out = op(*[convert(a) for a in args], **{k: convert(v) for k, v in kwargs.items()})
    flat = out if isinstance(out, (tuple, list)) else (out,)
    return [geometry.intern(t.shape, t.stride(), 0, t.dtype) for t in flat]


def _packed_results(args: Any) -> list[Geometry]:
    """Results of a recurrent operator on packed data [elements, features]: the outputs, and each state as it came."""
    data, states = args[0], args[2] if isinstance(args[2], (list, tuple)) else [args[2]]
    size = torch.Size((data.shape[0], states[0].shape[-1] * (2 if args[-1] else 1)))
    outs = geometry.intern(size, geometry.contiguous_stride(size), 0, data.dtype)
    kept = [geometry.intern(s.shape, geometry.contiguous_stride(s.shape), 0, s.dtype) for s in states]
    return [outs, *kept]


def _gradient_of(spec: Geometry) -> Geometry:
    like = torch.empty_like(spec.meta())
    return geometry.intern(spec.size, like.stride(), 0, spec.dtype)


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, forward: _Forward, args: Any, kwargs: Any, *tensors: torch.Tensor) -> Any:
        graph_of = tuple(i for i, needed in enumerate(ctx.needs_input_grad[3:]) if needed)
        results, handle = forward.run(args, kwargs, list(tensors), graph_of)
        ctx.call, ctx.args, ctx.kwargs = forward, _without_tensors(args), _without_tensors(kwargs)
        ctx.save_for_backward(*tensors, handle)
        ctx.set_materialize_grads(False)
        return results if isinstance(results, tuple) else (results,)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        *tensors, handle = ctx.saved_tensors
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        if torch.is_grad_enabled():
            found = _differentiable(ctx, tensors, list(grads), wanted)
        else:
            specs = [record.operand(t)[1] for t in tensors]
            found = ctx.call.backward(handle, list(grads), specs, wanted)
        gradients: list[torch.Tensor | None] = [None] * len(tensors)
        for position, gradient in zip(wanted, found, strict=True):
            gradients[position] = gradient
        return (None, None, None, *gradients)


class _Hole:
    """Where a tensor stood: the saved ones are put back in order."""


def _without_tensors(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _Hole
    if isinstance(value, (list, tuple)):
        return [_without_tensors(v) for v in value]
    if isinstance(value, dict):
        return {k: _without_tensors(v) for k, v in value.items()}
    return value


def _with_tensors(value: Any, tensors: Any) -> Any:
    if value is _Hole:
        return next(tensors)
    if isinstance(value, list):
        return [_with_tensors(v, tensors) for v in value]
    if isinstance(value, dict):
        return {k: _with_tensors(v, tensors) for k, v in value.items()}
    return value


def _differentiable(ctx: Any, tensors: list[torch.Tensor], grads: list[Any], wanted: list[int]) -> Any:
    """Gradients that can be differentiated again: by the operator's own parts.

    With respect to views, one for each operand, since a tensor may stand in several places or follow from another operand.
    """
    tensors = [t.view_as(t) for t in tensors]
    pending = iter(tensors)
    args, kwargs = _with_tensors(ctx.args, pending), _with_tensors(ctx.kwargs, pending)
    out = ctx.call.op.decompose(*args, **kwargs)
    outs = out if isinstance(out, tuple) else (out,)
    pairs = [(o, g) for o, g in zip(outs, grads, strict=True) if g is not None]
    return torch.autograd.grad(
        [o for o, _ in pairs],
        [tensors[i] for i in wanted],
        [g for _, g in pairs],
        create_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )


# -- cells that PyTorch fuses on its accelerators only --------------------------------------------------------------------


def fused_lstm_cell(
    input_gates: torch.Tensor,
    hidden_gates: torch.Tensor,
    cx: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    hidden_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`_thnn_fused_lstm_cell` from its parts, as the CPU computes it."""
    gates = _biased(hidden_gates, hidden_bias) + _biased(input_gates, input_bias)
    i, f, g, o = gates.unsafe_chunk(4, 1)
    cy = f.sigmoid() * cx + i.sigmoid() * g.tanh()
    return o.sigmoid() * cy.tanh(), cy, gates


def fused_gru_cell(
    input_gates: torch.Tensor,
    hidden_gates: torch.Tensor,
    hx: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    hidden_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_thnn_fused_gru_cell` from its parts, as the CPU computes it."""
    from_input = _biased(input_gates, input_bias).unsafe_chunk(3, 1)
    from_hidden = _biased(hidden_gates, hidden_bias).unsafe_chunk(3, 1)
    reset = (from_hidden[0] + from_input[0]).sigmoid()
    update = (from_hidden[1] + from_input[1]).sigmoid()
    new = (from_input[2] + from_hidden[2] * reset).tanh()
    return (hx - new) * update + new, new


def lstm_cell(
    input: torch.Tensor,
    hx: Sequence[torch.Tensor],
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: torch.Tensor | None = None,
    b_hh: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`lstm_cell` from its parts. What PyTorch takes it apart to on accelerators adds the biases after autocast's casts."""
    return fused_lstm_cell(linear(input, w_ih, b_ih), linear(hx[0], w_hh, b_hh), hx[1])[:2]


def gru_cell(
    input: torch.Tensor,
    hx: torch.Tensor,
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: torch.Tensor | None = None,
    b_hh: torch.Tensor | None = None,
) -> torch.Tensor:
    """`gru_cell` from its parts, as the CPU computes it."""
    return fused_gru_cell(linear(input, w_ih, b_ih), linear(hx, w_hh, b_hh), hx)[0]


CELLS: dict[str, Callable[..., Any]] = {"aten::lstm_cell": lstm_cell, "aten::gru_cell": gru_cell}


def _biased(gates: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return gates if bias is None else gates + bias


def tensor_split(self: torch.Tensor, tensor_indices_or_sections: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """The CPU reads the places to split from memory; here they are fetched."""
    return self.tensor_split(tensor_indices_or_sections.tolist(), dim)


_one_hot = kernels.kernel(aten.one_hot.default)


def one_hot(self: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """On an accelerator PyTorch asks for the largest class only: negative ones would give nothing and no error."""
    if num_classes < 1 and self.numel() and self.dtype is torch.int64:
        smallest, largest = torch.stack(torch.aminmax(self)).tolist()
        if smallest < 0:
            raise RuntimeError("Class values must be non-negative.")
        if num_classes != -1:
            raise RuntimeError("Class values must be smaller than num_classes.")
        num_classes = largest + 1
    return _one_hot(self, num_classes)  # type: ignore[no-any-return]


def _quantile(op: OpOverload) -> Callable[..., Any]:
    """On an accelerator PyTorch does not look whether the quantiles that it is asked for are any."""
    composite = torch._C.DispatchKey.CompositeImplicitAutograd

    def quantile(self: torch.Tensor, q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if q.dim() < 2 and self.dtype is q.dtype and not bool(((q >= 0) & (q <= 1)).all()):
            raise RuntimeError("quantile() q values must be in the range [0, 1]")
        return op._op_dk(composite, self, q, *args, **kwargs)  # type: ignore[no-any-return]

    return quantile


PARTS: dict[str, Callable[..., Any]] = {
    "_thnn_fused_lstm_cell": fused_lstm_cell,
    "_thnn_fused_gru_cell": fused_gru_cell,
    "tensor_split.tensor_indices_or_sections": tensor_split,
    "one_hot": one_hot,
    "quantile": _quantile(aten.quantile.default),
    "nanquantile": _quantile(aten.nanquantile.default),
}
"""Operators that are made of others here: their gradients follow from the parts."""
