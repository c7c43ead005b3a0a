"""Queries: calls whose results only the worker knows. It runs them at once and answers with geometries and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gt.client.calls import schemas, sparse_parts, templates
from gt.client.calls.lifting import lift, lifted
from gt.client.calls.schemas import OpOverload
from gt.client.session.configured import configured
from gt.client.session.process import process
from gt.client.session.random_sequence import sequence
from gt.client.stream import geometry, operands, sites
from gt.client.stream.isolation import untraced
from gt.errors import ProtocolError
from gt.wire import instructions as wire
from gt.wire import messages

Tensor = torch.Tensor


@untraced
def query(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a call on the worker now, and build its results from the geometries and values in the answer.

    Raises PyTorch's error for the call, and ProtocolError for an answer that does not fit the operator.
    """
    args = tuple(lifted(op, args))
    kwargs = {k: lift(v) if isinstance(v, Tensor) else v for k, v in kwargs.items()}
    sent = [sparse_parts.apart(a) for a in args]
    named = {k: sparse_parts.apart(v) for k, v in kwargs.items() if k not in templates.CLIENT_ONLY}
    given = templates.tensors_in((*sent, *named.values()))
    ins = [(i, g.to_wire()) for i, g, _ in map(operands.operand, given)]
    template = templates.Template()
    wire_args, wire_kwargs = [template.arg(a, False) for a in sent], {k: template.arg(v, False) for k, v in named.items()}
    site = sites.here(3)
    dtype = geometry.dtype_name(torch.get_default_dtype())
    writes = schemas.written_operands(op, wire_args, wire_kwargs)

    asked: list[int] = []

    def request(number: int) -> wire.Query:
        asked.append(number)
        first = operands.query_id(number)
        return wire.Query(number, schemas.op_name(op), wire_args, wire_kwargs, ins, first, site, dtype, writes)

    try:
        answer, _ = process.session().ask(request)
        return _built(_Results(op, args, kwargs, given, answer))
    except BaseException:  # also one of a signal's handler
        for number in asked:
            operands.free_results(number)
        raise


def _built(results: _Results) -> Any:
    """Raises ProtocolError for an answer that does not fit its query."""
    try:
        return results.build()
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError) as error:
        raise ProtocolError(f"the worker answered {results.op} with what it cannot return") from error


class _Results:
    """Builds what the operator returns from an answer's geometries and values. `given`: the operands."""

    def __init__(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor], answer: messages.Answer
    ) -> None:
        self.op, self.returns = op, op._schema.returns
        self.written = schemas.written(op, args, kwargs)
        self.given = given
        self.next_id = operands.query_id(answer.request)
        self.outs, self.values, self.marks = iter(answer.outs), iter(answer.values), iter(answer.pattern)

    def build(self) -> Any:
        results: list[Any] = []
        stack: list[list[Any]] = []
        target = results
        for mark in self.marks:
            if mark == "[":
                stack.append(target)
                target.append([])
                target = target[-1]
            elif mark == "]":
                target = stack.pop()
            elif mark == "v":
                target.append(_value(next(self.values)))
            else:
                written = None if stack else self._written(len(results))
                target.append(self._sparse(written) if mark == "s" else self._tensor(written))
        if not self.returns:
            return None
        return tuple(results) if len(self.returns) > 1 else results[0]

    def _written(self, index: int) -> Tensor | None:
        """The caller's own tensor, for a result that is a written operand."""
        alias = self.returns[index].alias_info
        return self.written[frozenset(alias.before_set)] if alias is not None and alias.is_write else None

    def _tensor(self, written: Tensor | None) -> Tensor | None:
        spec = next(self.outs)
        if written is not None:
            if spec is not None and spec != geometry.of(written).to_wire():
                operands.regeometry(written, geometry.from_wire(spec))
            return written
        if spec is None:
            return None
        self.next_id += 1
        return operands.adopt(self.next_id - 1, geometry.from_wire(spec))

    def _sparse(self, written: Tensor | None) -> Tensor:
        values: Iterator[Any] = self.values
        layout = getattr(torch, next(values))
        size = [next(values) for _ in range(next(values))]
        coalesced = next(values)
        marks = [next(self.marks) for _ in range(2 if layout is torch.sparse_coo else 3)]
        parts: list[Any] = [self.given[next(values)] if mark == "o" else self._tensor(None) for mark in marks]
        made = sparse_parts.put_together(layout, parts, size, coalesced)
        return made if written is None else sparse_parts.become(written, made)


def _value(value: Any) -> Any:
    return complex(value.real, value.imag) if isinstance(value, wire.Complex) else value


def with_generator(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a call with a `torch.Generator` of the client's: its state travels to the worker and back."""
    generator: torch.Generator = kwargs["generator"]
    if sequence.is_default(generator):
        sequence.to_worker()
        return query(op, args, {**kwargs, "generator": None})
    if configured.on_shapes:
        return op(*args, **{**kwargs, "generator": None})
    state = generator.get_state().to("remote")
    result = query(op, args, {**kwargs, "generator": templates.GeneratorState(state)})
    generator.set_state(state.cpu())
    return result
