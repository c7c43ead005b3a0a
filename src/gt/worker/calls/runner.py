"""Runs prepared calls, and makes their results the storages that the client expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gt.wire import instructions as wire
from gt.worker import warning_capture
from gt.worker.calls.direct import direct
from gt.worker.calls.kinds import DEFAULT_DTYPE
from gt.worker.calls.prepared import PreparedCall
from gt.worker.geometry import DTYPES, geometry_of
from gt.worker.operators import graph
from gt.worker.random import Random
from gt.worker.session import WorkerSession
from gt.worker.zeroing import Zeroing


class Runner:
    """Runs calls on one device. All its sessions share the device's generator and memory."""

    def __init__(self, device: torch.device) -> None:
        self.random = Random(device)
        self.zeroing = Zeroing(device)

    def run(self, session: WorkerSession, call: PreparedCall, ins: list[Any], numbers: Sequence[Any], site: int) -> Any:
        """Run a call on its operands and numbers; returns what the operator returned. Raises as the operator does.

        Warnings of its first run are noted in the session. `site`: the number of the user's line, for these.
        """
        if call.has_run:
            return self._run(session, call, ins, numbers)
        result, said = warning_capture.listen(lambda: self._run(session, call, ins, numbers), site)
        call.has_run = True
        session.warnings += said
        return result

    def _run(self, session: WorkerSession, call: PreparedCall, ins: list[Any], numbers: Sequence[Any]) -> Any:
        if call.default_dtype is not DEFAULT_DTYPE:
            return self._run_under_default_dtype(session, call, ins, numbers)
        return self._run_clean(session, call, ins, numbers)

    def _run_under_default_dtype(
        self, session: WorkerSession, call: PreparedCall, ins: list[Any], numbers: Sequence[Any]
    ) -> Any:
        """The default dtype belongs to the process: it is set for this call only."""
        torch.set_default_dtype(call.default_dtype)
        try:
            return self._run_clean(session, call, ins, numbers)
        finally:
            torch.set_default_dtype(DEFAULT_DTYPE)

    def _run_clean(self, session: WorkerSession, call: PreparedCall, ins: list[Any], numbers: Sequence[Any]) -> Any:
        """Keep other sessions' memory out of reach: indices are checked, and bytes that it does not write are zeros."""
        if self.zeroing.needed and call.checks is not None:
            call.checks.check_elements(ins)
        if call.fills:
            return self._run_plain(session, call, ins, numbers)
        with self.zeroing:
            result = self._run_plain(session, call, ins, numbers)
        if call.allocates:
            self.zeroing.fill_allocated(result)
        return result

    def _run_plain(self, session: WorkerSession, call: PreparedCall, ins: list[Any], numbers: Sequence[Any]) -> Any:
        if call.draws:
            self.random.borrow(session.number)
        if call.autograd:
            return self._run_with_autograd(session, call, ins, numbers)
        if call.operands_only:
            return call.raw(*ins)
        args, kwargs = call.arguments.fill(ins, numbers)
        return call.raw(*args, **kwargs)

    def _run_with_autograd(self, session: WorkerSession, call: PreparedCall, ins: list[Any], numbers: Sequence[Any]) -> Any:
        state = self.random.state(session.number) if call.drops else None
        leaves = graph.leaves(ins, call.differentiated)
        seen = [leaf if leaf is not None else tensor for leaf, tensor in zip(leaves, ins, strict=True)]
        args, kwargs = call.arguments.fill(seen, numbers)
        with graph.autograd(call.define.grad_mode):
            result = call.raw(*args, **kwargs)
            if not (call.define.grad_mode and call.define.requires_grad):
                return result
            outs = list(result) if isinstance(result, (tuple, list)) else [result]
            return [*[out.detach() for out in outs], graph.Graph(leaves, outs, state)]

    def keep(self, session: WorkerSession, call: PreparedCall, item: wire.Op, result: Any, ins: list[Any]) -> None:
        """Store the results under the ids of `item`. Raises RuntimeError where they are not what the client expects."""
        results = _results(call, result, ins)
        outs = item.outs
        if len(results) != len(outs):
            raise RuntimeError(f"{call.name}: the worker made {len(results)} results, the client expects {len(outs)}")
        if not call.verified:
            self._verify(session, call, item.call, results, ins)
        if True in call.copies:
            self._copy(session, call, results)
        storages = session.memory.storages
        for id, number, tensor in zip(outs, call.out_numbers, results, strict=True):
            storages[id] = {number: tensor}
        if call.counted:
            for id, size in zip(outs, call.sizes, strict=True):
                session.memory.usage.count(id, size)

    def _copy(self, session: WorkerSession, call: PreparedCall, results: list[Any]) -> None:
        """Give the results that need it storages of their own."""
        for position, tensor in enumerate(results):
            if call.copies[position]:
                own = session.memory.allocate(call.outs[position])
                _copy_into(own, tensor)
                results[position] = own

    def _verify(self, session: WorkerSession, call: PreparedCall, number: int, results: list[Any], ins: list[Any]) -> None:
        """Compare a call's first results with what the client expects, and find its direct way."""
        owners = [t.untyped_storage()._cdata for t in (*results, *ins) if isinstance(t, torch.Tensor)]
        call.copies = [_must_copy(r, g, n, owners) for r, g, n in zip(results, call.outs, call.sizes, strict=True)]
        # one definition serves the graphs of many calls, whose gradients have the strides that their kernels chose
        call.verified = call.op is not graph.backward
        if (way := direct(call, session.memory, session.upcoming)) is not None:
            session.direct[number] = way


def _results(call: PreparedCall, result: Any, ins: list[Any]) -> list[Any]:
    """The fresh results of a call, in order, without the operands that it wrote and without undefined results."""
    if call.flat and isinstance(result, (list, tuple)):
        return [value for value in result if value is not None]
    if not isinstance(result, (list, tuple)):
        return [] if result is None or any(result is ins[i] for i in call.written) else [result]
    if call.output_mask is not None:
        result = [value for value, wanted in zip(result, call.output_mask, strict=True) if wanted]
    found: list[Any] = []
    for value in result:
        if isinstance(value, (list, tuple)):
            found.extend(v for v in value if v is not None)
        elif value is not None and not any(value is ins[i] for i in call.written):
            found.append(value)
    return found


def _must_copy(result: Any, expected: wire.Geometry, size_bytes: int, owners: list[int]) -> bool:
    """Whether a result shares its storage, has bytes that nobody wrote, or other strides than the client expects.
    `owners`: the storages of all results and operands. `size_bytes`: what `expected` needs.

    Raises RuntimeError for another size or dtype.
    """
    if isinstance(result, graph.Graph):
        return False
    if result.shape != expected.size or result.dtype is not DTYPES[expected.dtype]:
        found = geometry_of(result)
        raise RuntimeError(
            f"the worker made {found.dtype}{list(found.size)} where the client expects"
            f" {expected.dtype}{list(expected.size)}; please report this operator"
        )
    storage = result.untyped_storage()
    return (
        result.stride() != expected.stride
        or result.storage_offset() != expected.offset
        or result.is_conj() != expected.conj
        or result.is_neg() != expected.neg
        or owners.count(storage._cdata) > 1
        or storage.nbytes() > size_bytes
    )


def _copy_into(target: torch.Tensor, source: torch.Tensor) -> None:
    """`target.copy_(source)`, also where `target` is expanded (`copy_` refuses to write an element twice)."""
    for dim, (size, stride) in enumerate(zip(target.shape, target.stride(), strict=True)):
        if stride == 0 and size > 1:
            target, source = target.narrow(dim, 0, 1), source.narrow(dim, 0, 1)
    target.copy_(source)
