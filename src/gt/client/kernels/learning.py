"""Learning a call that was not met before: it is inferred and defined once, or asked of the worker each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gt.client.calls import dry_run, inference, schemas, templates
from gt.client.calls.asking import query
from gt.client.calls.defined import UNFORESEEN, DefinedCall, Fresh, Written
from gt.client.calls.schemas import OpOverload
from gt.client.stream import operands
from gt.client.stream.definitions import LIMIT, definitions
from gt.client.stream.isolation import untraced

Tensor = torch.Tensor


VARYING = {"Tensor", "number", "float", "Optional[Tensor]", "Optional[number]", "Optional[float]", "List[number]"}


SHAPED_BY_NUMBERS = {"aten::arange", "aten::range", "aten::arange.start", "aten::arange.start_step"} | {
    f"aten::_upsample_{kind}2d_aa{of}" for kind in ("bilinear", "bicubic", "lanczos") for of in ("", "_backward")
}
"""Operators whose numbers decide the size of the result, or have to fit it."""
ASKED = {"aten::_embedding_bag", "aten::_embedding_bag_forward_only"}
"""Operators whose results on a CPU have other sizes than inference says: the worker is asked each time."""


def varying(op: OpOverload) -> frozenset[int]:
    """Positions of the arguments that may be numbers of no influence on the result's shape."""
    if op._schema.name in SHAPED_BY_NUMBERS:
        return frozenset()
    return frozenset(i for i, a in enumerate(op._schema.arguments) if str(a.type) in VARYING and not a.kwarg_only)


@untraced
def ask(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool]:
    """Let the worker say whether it takes a call of this kind at all. The result, and whether inference foretells it."""
    given = templates.tensors_in((*args, *kwargs.values()))
    before = [operands.operand(t)[1] for t in given]
    result = query(op, args, kwargs)
    fresh = [t.dtype for t in templates.tensors_in((result,)) if not any(t is g for g in given)]
    try:
        foretold = [spec.dtype for spec in inference.infer(op, args, kwargs, before).outs if spec is not None]
    except Exception:
        return result, False  # inference does not know this call
    return result, fresh == foretold


@untraced
def learn(
    op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], vary: frozenset[int], cache: dict[Any, Any], key: Any
) -> Any:
    """Infer and define a call that was not met before."""
    call: Any = UNFORESEEN
    if not (unforeseeable(op) or _beyond(op, args) or any(map(shares_elements, schemas.written(op, args, kwargs).values()))):
        specs = [operands.operand(t)[1] for t in templates.tensors_in((*args, *kwargs.values()))]
        try:
            found = inference.infer(op, args, kwargs, specs)
        except Exception:
            # Either the worker finds the same fault, and its error is the one PyTorch's CPU gives, or inference does not
            # know this call and the worker does. Both are settled by asking.
            cache[key] = UNFORESEEN
            return UNFORESEEN
        number = templates.define(op, args, kwargs, specs, found.outs, vary)
        call = _call(number, found, bool(args) and isinstance(args[0], Tensor))
    cache[key] = call
    return call


def _beyond(op: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether the dim of a call is none of its first operand's: not all inference looks."""
    if not args or not isinstance(args[0], Tensor):
        return False
    dims = max(args[0].dim(), 1)
    given = zip(op._schema.arguments, args, strict=False)
    return any(a.name == "dim" and type(v) is int and not -dims <= v < dims for a, v in given)


def shares_elements(written: Tensor) -> bool:
    """Whether elements share memory: if an operator may write them, the worker says at the call, inference does not."""
    return any(stride == 0 and n > 1 for n, stride in zip(written.shape, written.stride(), strict=True))


def unforeseeable(op: OpOverload) -> bool:
    """Whether results depend on data, or are not tensors."""
    tags = op.tags
    return (
        schemas.op_name(op) in ASKED
        or torch.Tag.dynamic_output_shape in tags
        or torch.Tag.data_dependent_output in tags
        or any(not str(r.type).startswith(("Tensor", "Optional[Tensor]", "List[Tensor]")) for r in op._schema.returns)
    )


def _call(number: int, found: inference.Inferred, tensor_first: bool) -> DefinedCall:
    single = found.outs[0] if type(found.shape) is Fresh else None
    return DefinedCall(
        number, found.outs, single, found.shape, tensor_first and not found.outs and found.shape == Written(0)
    )


def tried(op: OpOverload) -> Callable[..., Any]:
    """Finds the call whose numbers a CPU may refuse, where the operands are taken: each number is tried once."""
    vary, cache, tried = varying(op), definitions.new_cache(), definitions.new_cache()

    def find(args: tuple[Any, ...], kwargs: dict[str, Any], packed: tuple[Any, ...], numbers: list[Any]) -> Any:
        key = (packed, *numbers)
        call = tried.get(key)
        if call is None:
            if dry_run.fails(op, args, kwargs):
                return UNFORESEEN
            if len(tried) >= LIMIT:
                tried.clear()
            call = tried[key] = cache.get(packed) or learn(op, args, kwargs, vary, cache, packed)
        return call

    return find
