"""Learning new calls: a call is inferred and defined once, or becomes a query each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gt.client.calls import ask_first, dry_run, inference, schemas, templates
from gt.client.calls.asking import query, with_generator
from gt.client.calls.defined import UNFORESEEN, DefinedCall, Fresh, WrittenOperand
from gt.client.calls.forms import Forms, form_of
from gt.client.calls.schemas import OpOverload
from gt.client.kernels.signature import varying
from gt.client.session.room import large
from gt.client.stream import operands
from gt.client.stream.definitions import LIMIT, definitions
from gt.client.stream.geometry import TensorSpec
from gt.client.stream.isolation import untraced

Tensor = torch.Tensor


ASKED = {"aten::_embedding_bag", "aten::_embedding_bag_forward_only"}
"""Operators whose results have other sizes on a CPU than inference says: always queries."""


MASKS = (torch.bool, torch.uint8)
"""dtypes of indices that say of each element whether it is selected."""
SIZED: dict[str, Callable[[tuple[Any, ...], dict[str, Any]], bool]] = {
    "aten::index.Tensor": lambda args, kwargs: not any(t.dtype in MASKS for t in templates.tensors_in((args[1],))),
    "aten::repeat_interleave.Tensor": lambda args, kwargs: kwargs.get("output_size") is not None,
}
"""Operators that PyTorch tags as having results of sizes that depend on data, and the calls whose results have not."""


class Answered:
    """The result of a new call that the worker has answered already."""

    __slots__ = ("result",)

    def __init__(self, result: Any) -> None:
        self.result = result


class Learner:
    """Learns the calls of one operator. `cache`: the calls by their keys, which the kernel looks into first."""

    def __init__(self, op: OpOverload, cache: dict[Any, Any]) -> None:
        self._op = op
        self._vary = varying(op)
        self._takes_generator = any(a.name == "generator" for a in op._schema.arguments)
        self._cache = cache
        self._forms = Forms()
        self._trusted = definitions.new_cache()
        """Kinds of doubtful calls that the worker has accepted."""
        self._tries_numbers = dry_run.of_numbers(op)
        self._tried_cache, self._tried = definitions.new_cache(), definitions.new_cache()
        """For operators whose numbers a CPU may refuse: the calls by their keys, and by keys with numbers that were
        tried."""

    def meet(self, args: tuple[Any, ...], kwargs: dict[str, Any], key: tuple[Any, ...]) -> Any:
        """A call that was not met before: a DefinedCall, UNFORESEEN, or an Answered."""
        if self._takes_generator and args and isinstance(args[-1], torch.Generator):  # by position it comes last
            return Answered(with_generator(self._op, args[:-1], {**kwargs, "generator": args[-1]}))
        if self._tries_numbers is not None and self._tries_numbers(args, kwargs):
            self._cache[key] = UNFORESEEN
            return UNFORESEEN
        call = self._foretold(args, kwargs, key)
        if call is not None:
            self._cache[key] = call
            return call
        doubt = ask_first.about(self._op, args, kwargs, key)
        if doubt is None or doubt in self._trusted:
            return self._learn(args, kwargs, self._cache, key)
        result, foretold = self._ask(args, kwargs)
        if foretold:
            self._trusted[doubt] = True
        else:
            self._cache[key] = UNFORESEEN
        return Answered(result)

    def with_these_numbers(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], key: tuple[Any, ...], numbers: list[Any]
    ) -> Any:
        """The call for these numbers, if a CPU accepts them (each is tried once); else UNFORESEEN."""
        if self._tries_numbers is None:
            return UNFORESEEN
        tried = (key, *numbers)
        call = self._tried.get(tried)
        if call is None:
            if dry_run.fails(self._op, args, kwargs):
                return UNFORESEEN
            if len(self._tried) >= LIMIT:
                self._tried.clear()
            known = self._tried_cache.get(key)
            call = self._tried[tried] = known or self._learn(args, kwargs, self._tried_cache, key)
        return call

    @untraced
    def _foretold(self, args: tuple[Any, ...], kwargs: dict[str, Any], key: tuple[Any, ...]) -> DefinedCall | None:
        """The call, defined, if it follows from one of its form; None where it has to be inferred."""
        form = form_of(self._op, args, kwargs, key)
        foretold = None if form is None else self._forms.foretell(form)
        if form is None or foretold is None:
            return None
        known, found = foretold
        described = known.described or templates.describe(self._op, args, kwargs, self._vary)
        if form.of_operands:
            known.described = described
        return self._define(described, args, [k for k in key if type(k) is TensorSpec], found)

    @untraced
    def _ask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool]:
        """Ask the worker whether it accepts a call of this kind. Returns the result, and whether inference agrees with
        it."""
        given = templates.tensors_in((*args, *kwargs.values()))
        before = [operands.operand(t)[1] for t in given]
        result = query(self._op, args, kwargs)
        fresh = [t.dtype for t in templates.tensors_in((result,)) if not any(t is g for g in given)]
        try:
            inferred = inference.infer(self._op, args, kwargs, before)
        except Exception:
            return result, False  # inference does not know this call
        return result, fresh == [spec.dtype for spec in inferred.outs if spec is not None]

    @untraced
    def _learn(self, args: tuple[Any, ...], kwargs: dict[str, Any], cache: dict[Any, Any], key: tuple[Any, ...]) -> Any:
        """Infer and define a call."""
        cache[key] = self._inferred(args, kwargs, key)
        return cache[key]

    def _inferred(self, args: tuple[Any, ...], kwargs: dict[str, Any], key: tuple[Any, ...]) -> Any:
        op = self._op
        written = schemas.written(op, args, kwargs).values()
        if unforeseeable(op, args, kwargs) or _beyond(op, args) or any(map(shares_elements, written)):
            return UNFORESEEN
        if ask_first.every_time(op, args, kwargs):
            return UNFORESEEN
        specs = [operands.operand(t)[1] for t in templates.tensors_in((*args, *kwargs.values()))]
        try:
            found = inference.infer(op, args, kwargs, specs)
        except Exception:
            # Either the worker finds the same fault, and its error is the one PyTorch's CPU gives, or inference does not
            # know this call and the worker does. Both are settled by asking.
            return UNFORESEEN
        form = form_of(op, args, kwargs, key)
        if form is not None:
            self._forms.learn(form, found)
        return self._define(templates.describe(op, args, kwargs, self._vary), args, specs, found)

    def _define(
        self, described: templates.Described, args: tuple[Any, ...], specs: list[TensorSpec], found: inference.Inferred
    ) -> DefinedCall:
        number = templates.define(described, specs, found.outs)
        return _call(number, found, bool(args) and isinstance(args[0], Tensor))


def _beyond(op: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether the `dim` of a call is out of range for its first operand, which not all inference checks."""
    if not args or not isinstance(args[0], Tensor):
        return False
    dims = max(args[0].dim(), 1)
    given = zip(op._schema.arguments, args, strict=False)
    return any(a.name == "dim" and type(v) is int and not -dims <= v < dims for a, v in given)


def shares_elements(written: Tensor) -> bool:
    """Whether elements share memory. Whether an operator may write such a tensor, only the worker knows."""
    return any(stride == 0 and n > 1 for n, stride in zip(written.shape, written.stride(), strict=True))


def unforeseeable(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether results depend on data, or are not tensors."""
    name = schemas.op_name(op)
    sized = SIZED.get(name)
    return (
        name in ASKED
        or (torch.Tag.dynamic_output_shape in op.tags and not (sized is not None and sized(args, kwargs)))
        or torch.Tag.data_dependent_output in op.tags
        or any(not str(r.type).startswith(("Tensor", "Optional[Tensor]", "List[Tensor]")) for r in op._schema.returns)
    )


def _call(number: int, found: inference.Inferred, tensor_first: bool) -> DefinedCall:
    large_bytes = large(found.outs)
    single = found.outs[0] if type(found.shape) is Fresh and not large_bytes else None
    in_place = tensor_first and not found.outs and type(found.shape) is WrittenOperand and found.shape.position == 0
    return DefinedCall(number, found.outs, single, found.shape, in_place, large_bytes)
