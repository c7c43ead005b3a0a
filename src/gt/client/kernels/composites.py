"""Composite operators that are recorded whole: one instruction forward, one backward.

PyTorch would decompose them on the client, by rules for its own accelerators, and the worker could not choose its best
kernel (nor would the bits be the CPU's). Instead the worker runs them under autograd, and keeps the graph behind an opaque
handle until the client's autograd releases it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gt.client.calls import schemas, templates
from gt.client.calls.defined import DefinedCall
from gt.client.calls.forms import Forms, form_of
from gt.client.calls.lifting import lifted
from gt.client.calls.schemas import OpOverload
from gt.client.kernels import decompositions, flop_counter
from gt.client.session import recording
from gt.client.session.random_sequence import sequence
from gt.client.session.room import large
from gt.client.stream import geometry, operands, sites
from gt.client.stream.definitions import definitions
from gt.client.stream.geometry import TensorSpec
from gt.client.stream.isolation import is_transformed, isolated

aten = torch.ops.aten
COMPOSITES: tuple[OpOverload, ...] = (
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
"""Prefixes of operators that are decomposed under autocast, which casts their parts and not the composites."""
ADDING_UP: dict[str, Callable[[list[torch.Tensor]], bool]] = {
    "aten::gru_cell": lambda tensors: tensors[1].requires_grad and torch.is_grad_enabled(),
}
"""Whether an operand gets several gradients from one call: a CPU adds each by itself to those that it gets from others, and
the order decides the last bits. Of a cell that is the state, which others use too."""
HANDLE = geometry.intern(torch.Size((0,)), (1,), 0, torch.uint8)
"""A saved graph as the client sees it: a tensor without elements, whose end frees the graph."""


def kernel(op: OpOverload) -> Callable[..., Any]:
    """The kernel of a composite operator on the device's autograd key."""
    forward, recurrent, unfused = _Forward(op), op._schema.name.startswith(RECURRENT), _unfused(op)
    parts, several, adds_up = forward.parts, forward.several, ADDING_UP.get(op._schema.name, lambda tensors: False)

    def run(*args: Any, **kwargs: Any) -> Any:
        tensors = templates.tensors_in((*args, *kwargs.values()))
        casts = recurrent and torch.is_autocast_enabled("remote")
        wanted_apart = _wants_parts(tensors) or flop_counter.wants_parts(op, args, kwargs)
        if casts or wanted_apart or adds_up(tensors) or unfused(args, kwargs):
            return parts(*args, **kwargs)
        if any(t.is_cpu for t in tensors):
            args = tuple(lifted(op, args))
            tensors = templates.tensors_in((*args, *kwargs.values()))
        if forward.drops(args, kwargs):
            sequence.to_worker()
        wanted = tuple([i for i, t in enumerate(tensors) if t.requires_grad])
        if not (wanted and torch.is_grad_enabled()):
            return forward.run(args, kwargs, tensors, wanted, torch.is_grad_enabled())[1]
        step = _step(op, args, kwargs, tensors)
        results = _Composite.apply(forward, args, kwargs, wanted, step, *tensors[::step])  # type: ignore[no-untyped-call]
        return results if several else results[0]

    return run


def _dropping(op: OpOverload) -> Callable[[tuple[Any, ...], dict[str, Any]], bool]:
    """The function that says whether a call of an operator has dropout in it."""
    if not schemas.draws(op):
        return lambda args, kwargs: False
    names = [argument.name for argument in op._schema.arguments]

    def drops(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        given = dict(zip(names, args, strict=False)) | kwargs
        return bool(given.get("dropout_p") or (given.get("dropout") and given.get("train")))

    return drops


def _unfused(op: OpOverload) -> Callable[[tuple[Any, ...], dict[str, Any]], bool]:
    """The function that says whether a program has turned off the kernel that a worker would take (`sdpa_kernel`)."""
    if op is not aten.scaled_dot_product_attention.default:
        return lambda args, kwargs: False

    def unfused(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        usual = torch._C._get_flash_sdp_enabled() and torch._C._get_math_sdp_enabled()
        return not usual and not flop_counter.is_fused(args, kwargs)

    return unfused


def _wants_parts(tensors: list[torch.Tensor]) -> bool:
    """Whether a transform of `torch.func`, forward-mode AD or a tracer is active, which need the decomposed operators."""
    return torch.autograd.forward_ad._current_level >= 0 or is_transformed(tensors)


def _step(op: OpOverload, args: Any, kwargs: Any, tensors: list[torch.Tensor]) -> int:
    """The order of the operands' gradients: -1 for last first, which matters for the rounding when a tensor appears
    twice."""
    if len({id(t) for t in tensors}) == len(tensors):
        return 1
    attends = op is aten.scaled_dot_product_attention.default and not flop_counter.is_fused(args, kwargs)
    return -1 if attends or op._schema.name.startswith("aten::lstm") else 1


class _Forward:
    """The forward and backward calls of one operator, by the geometry and literals of their arguments."""

    def __init__(self, op: OpOverload) -> None:
        self.op = op
        self.parts = decompositions.CELLS.get(op._schema.name, op.decompose)
        """The operator, decomposed."""
        self.drops = _dropping(op)
        """Whether a call has dropout in it, by its arguments."""
        self.several = len(op._schema.returns) > 1
        """Whether the operator returns more than one tensor."""
        self.cache = definitions.new_cache()
        self.backward_cache = definitions.new_cache()
        self._forms, self._backward_forms = Forms(), Forms()

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: list[torch.Tensor],
        wanted: tuple[int, ...],
        grad_mode: bool,
    ) -> tuple[int, Any, torch.Tensor | None]:
        """Record the call. Returns its number, its results, and the handle of their graph if one is kept.

        `wanted`: the positions of the operands that require gradients.
        """
        found = [operands.operand(t) for t in tensors]
        specs = [g for _, g, _ in found]
        key = (*specs, wanted, grad_mode, _literals(args), _literals(kwargs.items()))
        call = self.cache.get(key)
        if call is None:
            form = form_of(self.op, args, kwargs, key)
            results = self._forms.results(form, lambda: _results(self.op, args, kwargs, specs))
            call = self.cache[key] = self._define(args, kwargs, specs, results, wanted, grad_mode)
        outs = [operands.make(spec) for spec in call.outs]
        # `templates.define` takes floats by keyword as numbers that each operation gives
        numbers = tuple(v for v in kwargs.values() if type(v) is float)
        recording.record_op(call.number, outs, (*(i for i, _, _ in found), *numbers), sites.here(3), call.large_bytes)
        handle = outs.pop() if wanted and grad_mode else None
        return call.number, tuple(outs) if self.several else outs[0], handle

    def _define(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        specs: list[TensorSpec],
        results: list[TensorSpec | None],
        wanted: tuple[int, ...],
        grad_mode: bool,
    ) -> DefinedCall:
        outs = [*results, *([HANDLE] if wanted and grad_mode else [])]
        number = templates.define(templates.describe(self.op, args, kwargs, frozenset(), wanted, grad_mode), specs, outs)
        return DefinedCall(number, outs, None, None, large_bytes=large(outs))

    def backward(self, ctx: Any, tensors: list[torch.Tensor], handle: torch.Tensor, grads: Any) -> list[torch.Tensor]:
        given = [handle, *(g for g in grads if g is not None)]
        found = [operands.operand(t) for t in given]
        ins = [g for _, g, _ in found]
        key = (ctx.number, tuple(ins), tuple(g is None for g in grads))
        call = self.backward_cache.get(key)
        if call is None:
            specs = [operands.operand(t)[1] for t in tensors]
            literals = _literals(ctx.args), _literals(ctx.kwargs.items())
            form = form_of(self.op, (), {}, (*specs, *ins[1:], key[2], ctx.wanted, *literals))
            outs = self._backward_forms.results(form, lambda: _gradients(self.op, ctx, specs, grads))
            arguments = (handle, *grads, list(ctx.wanted))
            described = templates.describe(self.op, arguments, {}, frozenset(), name="gt::backward")
            number = templates.define(described, ins, outs)
            call = self.backward_cache[key] = DefinedCall(number, outs, None, None, large_bytes=large(outs))
        made = [operands.make(spec) for spec in call.outs]
        recording.record_op(call.number, made, tuple(i for i, _, _ in found), sites.here(3), call.large_bytes)
        return made

    def random_state(self, handle: torch.Tensor, size: int) -> torch.Tensor:
        """The state of the worker's generator, of `size` bytes, before the call whose graph this is (uint8 on the CPU)."""
        id, spec, _ = operands.operand(handle)
        key = ("random state", size)
        call = self.backward_cache.get(key)
        if call is None:
            outs: list[TensorSpec | None] = [geometry.intern(torch.Size((size,)), (1,), 0, torch.uint8)]
            described = templates.describe(self.op, (handle,), {}, frozenset(), name="gt::random_state")
            call = self.backward_cache[key] = DefinedCall(templates.define(described, [spec], outs), outs, None, None)
        made = operands.make(call.outs[0])
        recording.record_op(call.number, [made], (id,), sites.here(3), call.large_bytes)
        return made.cpu()


def _literals(values: Any) -> tuple[Any, ...]:
    """The literals of an argument list as a hashable key that tells `1`, `True` and `1.0` apart."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(torch.Tensor)
        elif isinstance(value, (list, tuple)):
            found.append(_literals(value))
        else:
            found.append((type(value), value))
    return tuple(found)


@contextmanager
def _on_fakes() -> Iterator[None]:
    """Tensors made here have no elements and take the CPU's paths. Errors are raised and not logged as well."""
    # late import: it takes 0.5 s, and only programs with such operators need it
    from torch._subclasses import fake_tensor

    logged, fake_tensor.log.disabled = fake_tensor.log.disabled, True
    try:
        with isolated(), fake_tensor.FakeTensorMode():
            yield
    finally:
        fake_tensor.log.disabled = logged


def _fakes(specs: Iterable[TensorSpec]) -> list[torch.Tensor]:
    return [torch.empty_strided(s.size, s.stride, dtype=s.dtype) for s in specs]


def _geometries(tensors: Any) -> list[TensorSpec]:
    return [geometry.intern(t.shape, t.stride(), 0, t.dtype) for t in tensors]


def _results(op: OpOverload, args: Any, kwargs: Any, specs: list[TensorSpec]) -> list[TensorSpec]:
    """The geometries of the results, with the CPU's strides."""
    if op._overloadname == "data":
        return _packed_results(args)
    with torch.no_grad(), _on_fakes():
        fakes = iter(_fakes(specs))
        out = op(*_with_tensors(_without_tensors(args), fakes), **_with_tensors(_without_tensors(kwargs), fakes))
        return _geometries(out if isinstance(out, tuple) else (out,))


def _gradients(op: OpOverload, ctx: Any, specs: list[TensorSpec], grads: list[torch.Tensor | None]) -> list[TensorSpec]:
    """The geometries of the operands' gradients, with the CPU's strides."""
    if op._overloadname == "data":
        return [_gradient_of(specs[i]) for i in ctx.wanted]
    given = [None if g is None else operands.operand(g)[1] for g in grads]
    with torch.enable_grad(), _on_fakes():
        leaves = _fakes(specs)
        for index in ctx.wanted:
            leaves[index].requires_grad_()
        fakes = iter(leaves)
        out = op(*_with_tensors(ctx.args, fakes), **_with_tensors(ctx.kwargs, fakes))
        outs = out if isinstance(out, tuple) else (out,)
        pairs = [(o, *_fakes([g])) for o, g in zip(outs, given, strict=True) if g is not None and o.requires_grad]
        wanted = [leaves[i] for i in ctx.wanted]
        found = torch.autograd.grad(
            [o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True, materialize_grads=True
        )
        return _geometries(found)


def _packed_results(args: Any) -> list[TensorSpec]:
    """The results of a recurrent operator on packed data [elements, features]: the outputs, and states of the given
    sizes."""
    data, states = args[0], args[2] if isinstance(args[2], (list, tuple)) else [args[2]]
    size = torch.Size((data.shape[0], states[0].shape[-1] * (2 if args[-1] else 1)))
    outs = geometry.intern(size, geometry.contiguous_stride(size), 0, data.dtype)
    kept = [geometry.intern(s.shape, geometry.contiguous_stride(s.shape), 0, s.dtype) for s in states]
    return [outs, *kept]


def _gradient_of(spec: TensorSpec) -> TensorSpec:
    with isolated():
        like = torch.empty_like(spec.meta())
    return geometry.intern(spec.size, like.stride(), 0, spec.dtype)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, forward: _Forward, args: Any, kwargs: Any, wanted: tuple[int, ...], step: int, *ordered: torch.Tensor
    ) -> Any:
        """`ordered`: the operands, in reverse if `step` is -1."""
        tensors = ordered[::step]
        ctx.number, results, handle = forward.run(args, kwargs, list(tensors), wanted, True)
        ctx.call, ctx.args, ctx.kwargs = forward, _without_tensors(args), _without_tensors(kwargs)
        ctx.wanted, ctx.step = wanted, step
        ctx.save_for_backward(*tensors, handle)
        ctx.set_materialize_grads(False)
        return results if isinstance(results, tuple) else (results,)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        *tensors, handle = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed(tensors):
            with _drawing_again(ctx, handle):
                found = _differentiable(ctx, tensors, list(grads), ctx.wanted)
        else:
            found = ctx.call.backward(ctx, tensors, handle, list(grads))
        gradients: list[torch.Tensor | None] = [None] * len(tensors)
        for position, gradient in zip(ctx.wanted, found, strict=True):
            gradients[position] = gradient
        return (None, None, None, None, None, *gradients[:: ctx.step])


@contextmanager
def _drawing_again(ctx: Any, handle: torch.Tensor) -> Iterator[None]:
    """Inside, dropout draws what it drew in the call; afterwards the sequence goes on as if nothing had been drawn."""
    if not ctx.call.drops(ctx.args, ctx.kwargs):
        yield
        return
    sequence.to_worker()
    now = sequence.worker_state()
    sequence.set_worker_state(ctx.call.random_state(handle, now.numel()))
    try:
        yield
    finally:
        sequence.set_worker_state(now)


def is_of_composite(tensor: torch.Tensor) -> bool:
    """Whether a tensor is the result of a composite that is under autograd."""
    return isinstance(tensor.grad_fn, _Composite._backward_cls)


class _Hole:
    """A placeholder for a tensor; the saved tensors are put back in order."""


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


def _differentiable(ctx: Any, tensors: list[torch.Tensor], grads: list[Any], wanted: Sequence[int]) -> Any:
    """Gradients that can be differentiated again, by way of the decomposed operator.

    They are taken with respect to views, one for each operand, since a tensor may appear several times or be computed from
    another operand.
    """
    tensors = [t.view_as(t) for t in tensors]
    pending = iter(tensors)
    args, kwargs = _with_tensors(ctx.args, pending), _with_tensors(ctx.kwargs, pending)
    out = ctx.call.parts(*args, **kwargs)
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
