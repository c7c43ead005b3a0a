"""Operators that work on each element by itself, with operands broadcast to one shape."""

from __future__ import annotations

from gt.placement.digit import Partial
from gt.planning.rule import Rule
from gt.planning.rules import labelling
from gt.planning.rules.pointwise_names import TAGGED
from gt.planning.rules.reading import Table, floating, operands_of, short_name
from gt.wire import instructions as wire

LINEAR = frozenset({Partial.SUM, Partial.AVERAGE})
"""The kinds of Partial that a linear function commutes with."""
NOTHING: frozenset[Partial] = frozenset()
_NAMES = """
    _conj_physical _fused_dropout_backward _neg_view_copy _prelu_kernel _prelu_kernel_backward _to_copy angle complex copy
    elu_backward fill gelu_backward hardshrink_backward hardsigmoid_backward hardswish hardswish_backward hardtanh_backward
    isposinf leaky_relu_backward log_sigmoid_backward log_sigmoid_forward mish_backward native_dropout_backward polar
    rrelu_with_noise_backward softplus_backward softshrink_backward zero fake_quantize_per_tensor_affine_cachemask
    special_i0 special_expit
"""
OTHERS = frozenset(_NAMES.split())
"""All overloads of these are pointwise as well, though PyTorch does not tag them so."""
WIDER = {
    ("bfloat16", "float32"),
    ("float16", "float32"),
    ("bfloat16", "float64"),
    ("float16", "float64"),
    ("float32", "float64"),
}
"""Conversions that are exact. Others round, and a sum of rounded parts is not the rounded sum."""


def pointwise(define: wire.Define) -> Rule | None:
    """Labels are positions from the right, as broadcasting counts them."""
    read = sorted(set(operands_of((*define.args, *_kwargs(define)))))
    shape = _broadcast([define.ins[i].size for i in read])
    outs = [(o, g.size) for o, g in enumerate(define.outs) if g is not None]
    if shape is None or not outs or any(size != shape for _, size in outs):
        return None
    ins = {i: labelling.from_the_right(define.ins[i].size, shape) for i in read}
    made = {o: labelling.from_the_right(size, shape) for o, size in outs}
    return labelling.rule(ins, made, passes=passes(define), linear=_factors(define))


def _kwargs(define: wire.Define) -> list[wire.Arg]:
    """The values of keyword arguments that are read, thus not `out=`."""
    return [v for v in define.kwargs.values() if not (isinstance(v, wire.In) and v.index in define.writes)]


def _broadcast(sizes: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape to which they are broadcast; None if they do not fit each other."""
    shape = [1] * max((len(size) for size in sizes), default=0)
    for size in sizes:
        for k in range(1, len(size) + 1):
            if size[-k] != 1 and shape[-k] not in (1, size[-k]):
                return None
            shape[-k] = shape[-k] if size[-k] == 1 else size[-k]
    return tuple(shape)


def passes(define: wire.Define) -> frozenset[Partial]:
    """The kinds of Partial that a call passes through. It must be linear in all its operands together, and must not round
    otherwise than it would the whole."""
    kinds = {g.dtype for g in (*define.ins, *define.outs) if g is not None}
    name = short_name(define).rstrip("_")
    if name == "_to_copy":
        return LINEAR & kinds_of(define.ins[0].dtype) if len(kinds) == 1 or _widens(define) else NOTHING
    if len(kinds) != 1:
        return NOTHING
    return kinds_of(*kinds) & (frozenset(Partial) if name == "clone" else LINEAR if _is_linear(name, define) else NOTHING)


def kinds_of(dtype: str) -> frozenset[Partial]:
    """The kinds of Partial that numbers of a dtype may be: integers have no average, booleans no sum."""
    if floating(dtype):
        return frozenset(Partial)
    return frozenset() if dtype == "bool" else LINEAR if dtype.startswith("complex") else frozenset({Partial.SUM})


def _widens(define: wire.Define) -> bool:
    made = define.outs[0]
    return made is not None and len(define.ins) == 1 and (define.ins[0].dtype, made.dtype) in WIDER


def _factors(define: wire.Define) -> tuple[frozenset[int], ...]:
    """The operands in each of which a product or quotient in place is linear while the other one stays the same.

    Not elsewhere: its operand, used again, would be reduced apart from its result.
    """
    a, b = define.args[:2] if len(define.args) >= 2 and define.writes else (None, None)
    if not (isinstance(a, wire.In) and isinstance(b, wire.In) and a.index != b.index and len(define.ins) == 2):
        return ()
    sets = {"mul": (frozenset({a.index}), frozenset({b.index})), "div": (frozenset({a.index}),)}
    return sets.get(short_name(define).rstrip("_"), ())


def _is_linear(name: str, define: wire.Define) -> bool:
    """Whether it is a sum or difference of operands, or one operand scaled by a number or by another operand."""
    args = define.args[:2]
    if name in ("add", "sub"):
        return len(args) == 2 and all(isinstance(a, wire.In) for a in args)
    if name in ("mul", "div"):
        number = isinstance(args[0], wire.In) and not isinstance(args[1], wire.In) and len(define.ins) == 1
        return (number or bool(_factors(define))) and define.kwargs.get("rounding_mode") is None
    return name in ("neg", "conj_physical")


TABLE: Table = dict.fromkeys((*TAGGED, *OTHERS), pointwise)
