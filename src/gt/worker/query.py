"""Calls whose results the client cannot infer: their geometries and values are in the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gt.wire import instructions as wire
from gt.wire.messages import Answer
from gt.wire.shared import Frame
from gt.worker.calls import sparse
from gt.worker.calls.prepared import PreparedCall
from gt.worker.failures import failure_of
from gt.worker.geometry import geometry_of, has_more, same_storage
from gt.worker.host import Host
from gt.worker.memory import PoisonedError
from gt.worker.operators import graph
from gt.worker.session import Reply, WorkerSession


def query(host: Host, session: WorkerSession, item: wire.Query, frames: Sequence[Frame]) -> Reply:
    """Run a call at once. Its failure is in the answer, for the client to raise.

    In a session of several workers it poisons what the call writes as well, which others may have written.
    """
    call: PreparedCall | None = None
    has_begun = False
    try:
        define = wire.Define(
            0, item.op, item.args, item.kwargs, [g for _, g in item.ins], [], default_dtype=item.default_dtype
        )
        call = PreparedCall(define, host.device, session.memory.number)
        failed = session.failed_check or (session.missed_draw if call.draws else None)
        if failed is not None:
            raise PoisonedError(failed)
        ins, _ = call.operands(session.memory, [id for id, _ in item.ins])
        has_begun = True
        with graph.all_keys():
            result = host.runner.run(session, call, ins, [], item.site)
            call.arguments.give_back_generators(ins)
            if result is None and any(geometry_of(ins[i]) != item.ins[i][1] for i in call.resized):
                raise NotImplementedError(
                    f"{item.op} resized its out=, and no result tells how: give it tensors of the right sizes"
                )
            session.operations += 1
            answer = _answer(session, item, call, result, ins)
        return answer, []
    except PoisonedError as error:
        failure = error.failure
    except Exception as error:
        failure = failure_of(error, "", 0)  # it is raised at the user's own line, so PyTorch's text alone is enough
    if call is not None and call.draws:
        session.miss_draw(failure)
    session.fail_query(item, failure, has_begun)
    return session.report(item.request, failure), []


def _answer(session: WorkerSession, item: wire.Query, call: PreparedCall, result: Any, ins: list[Any]) -> Answer:
    outs: list[wire.Geometry | None] = []
    values: list[Any] = []
    kept: list[torch.Tensor] = []
    written = {id(ins[i]) for i in call.written}

    def mark(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return "[" + "".join(map(mark, value)) + "]"
        if not isinstance(value, torch.Tensor):
            values.append(wire.Complex(value.real, value.imag) if isinstance(value, complex) else value)
            return "v"
        if id(value) in written:
            outs.append(geometry_of(value))
            return "t"
        if sparse.is_sparse(value):
            what, parts = sparse.decompose(value)
            values.extend((what.layout, len(what.size), *what.size, what.coalesced))
            return "s" + "".join(map(mark_part, parts))
        return mark_new(value)

    def mark_part(part: torch.Tensor) -> str:
        same = (i for i, o in enumerate(ins) if same_storage(o, part) and geometry_of(o) == geometry_of(part))
        index = next(same, None)
        if index is None:
            return mark_new(part)
        values.append(index)
        return "o"

    def mark_new(value: torch.Tensor) -> str:
        if len(kept) == wire.QUERY_RESULTS:
            raise RuntimeError(f"{item.op}: more than {wire.QUERY_RESULTS} results")
        own = _own(value, [*ins, *kept])
        if has_more(own, geometry_of(own)):
            own = session.memory.allocate(geometry_of(own)).copy_(own)
        session.memory.put(item.out + len(kept), geometry_of(own), own)
        outs.append(geometry_of(own))
        kept.append(own)
        return "t"

    pattern = "".join(map(mark, result if isinstance(result, tuple) else (result,)))
    return Answer(item.request, outs=outs, values=values, pattern=pattern)


def _own(tensor: torch.Tensor, others: list[Any]) -> torch.Tensor:
    """The tensor, or a copy: at the start of a storage that none of `others` shares, without conj and neg bits."""
    shared = any(isinstance(o, torch.Tensor) and same_storage(o, tensor) for o in others)
    plain = tensor.storage_offset() == 0 and not tensor.is_conj() and not tensor.is_neg()
    if plain and not shared:
        return tensor
    return tensor.clone(memory_format=torch.preserve_format).resolve_conj().resolve_neg()
