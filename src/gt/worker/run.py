"""Running a prepared call, and making its results the storages that the client expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gt.wire import instructions as wire
from gt.worker import graph, warning_capture
from gt.worker.memory import beyond, copy_into, geometry_of
from gt.worker.prepare import DEFAULT_DTYPE, Call, direct
from gt.worker.random import Random
from gt.worker.session import WorkerSession
from gt.worker.zeroing import Zeroing


class Runner:
    """Runs calls on one device, whose generator its sessions share."""

    def __init__(self, device: torch.device) -> None:
        self.random = Random(device)
        self.zeroing = Zeroing(device)

    def run(self, session: WorkerSession, call: Call, ins: list[Any], numbers: Sequence[Any], site: int) -> Any:
        if call.heard:
            return self._run(session, call, ins, numbers)
        result, said = warning_capture.listen(lambda: self._run(session, call, ins, numbers), site)
        call.heard = True
        session.warnings += said
        return result

    def _run(self, session: WorkerSession, call: Call, ins: list[Any], numbers: Sequence[Any]) -> Any:
        if call.default_dtype is not DEFAULT_DTYPE:
            return self._run_under_default_dtype(session, call, ins, numbers)
        return self._run_clean(session, call, ins, numbers)

    def _run_under_default_dtype(self, session: WorkerSession, call: Call, ins: list[Any], numbers: Sequence[Any]) -> Any:
        """The default dtype is the process's, so it is the session's for this call alone."""
        torch.set_default_dtype(call.default_dtype)
        try:
            return self._run_clean(session, call, ins, numbers)
        finally:
            torch.set_default_dtype(DEFAULT_DTYPE)

    def _run_clean(self, session: WorkerSession, call: Call, ins: list[Any], numbers: Sequence[Any]) -> Any:
        """What it leaves unwritten shows nothing of another session's, and it reaches nothing of it."""
        if self.zeroing.needed and call.trust is not None:
            call.trust.check(ins)
        if call.fills:
            return self._run_plain(session, call, ins, numbers)
        with self.zeroing:
            result = self._run_plain(session, call, ins, numbers)
        if call.allocates:
            self.zeroing.allocated(result)
        return result

    def _run_plain(self, session: WorkerSession, call: Call, ins: list[Any], numbers: Sequence[Any]) -> Any:
        if call.draws:
            self.random.borrow(session.number)
        if call.autograd:
            return self._run_with_autograd(call, ins, numbers)
        if call.positional:
            return call.raw(*ins)
        args, kwargs = call.filler.fill(ins, numbers)
        return call.raw(*args, **kwargs)

    def _run_with_autograd(self, call: Call, ins: list[Any], numbers: Sequence[Any]) -> Any:
        leaves = graph.leaves(ins, call.define.requires_grad)
        seen = [leaf if leaf is not None else tensor for leaf, tensor in zip(leaves, ins, strict=True)]
        args, kwargs = call.filler.fill(seen, numbers)
        with graph.autograd(call.define.grad_mode):
            result = call.op(*args, **kwargs)
            if not (call.define.grad_mode and call.define.requires_grad):
                return result
            outs = list(result) if isinstance(result, (tuple, list)) else [result]
            return [*(out.detach() for out in outs), graph.Graph(leaves, outs)]

    def keep(self, session: WorkerSession, call: Call, item: wire.Op, result: Any, ins: list[Any]) -> None:
        results = _results(call, result, ins)
        outs = item.outs
        if len(results) != len(outs):
            raise RuntimeError(f"{call.name}: the worker made {len(results)} results, the client expects {len(outs)}")
        if not call.verified:
            self._verify(session, call, item.call, results, ins)
        for position, tensor in enumerate(results):
            if call.copies[position]:
                own = session.memory.allocate(call.outs[position])
                copy_into(own, tensor)
                results[position] = own
        for id, number, tensor, size in zip(outs, call.out_numbers, results, call.sizes, strict=True):
            session.memory.storages[id] = {number: tensor}
            session.memory.made(id, size)

    def _verify(self, session: WorkerSession, call: Call, number: int, results: list[Any], ins: list[Any]) -> None:
        """Compare a call's first results with what the client expects."""
        call.copies = [_must_copy(r, g, results, ins) for r, g in zip(results, call.outs, strict=True)]
        # one definition serves the graphs of many calls, whose gradients lie as their kernels made them
        call.verified = call.op is not graph.backward
        if (way := direct(call, session.memory)) is not None:
            session.direct[number] = way


def _results(call: Call, result: Any, ins: list[Any]) -> list[Any]:
    """The fresh results of a call in order: its written operands and undefined results left out."""
    if not isinstance(result, (list, tuple)):
        return [] if result is None or any(result is ins[i] for i in call.written) else [result]
    if call.mask is not None:
        result = [value for value, wanted in zip(result, call.mask, strict=True) if wanted]
    found: list[Any] = []
    for value in result:
        if isinstance(value, (list, tuple)):
            found.extend(v for v in value if v is not None)
        elif value is not None and not any(value is ins[i] for i in call.written):
            found.append(value)
    return found


def _must_copy(result: Any, expected: wire.Geometry, results: list[Any], ins: list[Any]) -> bool:
    """Whether a result lies otherwise than the client expects. Raises RuntimeError where it is another tensor."""
    if isinstance(result, graph.Graph):
        return False
    found = geometry_of(result)
    if found.size != expected.size or found.dtype != expected.dtype:
        raise RuntimeError(
            f"the worker made {found.dtype}{list(found.size)} where the client expects"
            f" {expected.dtype}{list(expected.size)}; please report this operator"
        )
    others = [o for o in (*results, *ins) if o is not result and isinstance(o, torch.Tensor)]
    shared = any(same_storage(o, result) for o in others) or any(result is i for i in ins)
    return found != expected or shared or beyond(result, expected)


def same_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata
