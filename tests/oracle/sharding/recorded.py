"""Calls as GT's client records them, with their operands: of PyTorch's operator database, and of any program."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch.utils._pytree import tree_map

import gt.fakes
from gt.wire import instructions as wire
from gt.worker.execute import Worker
from gt.worker.operators import facts, table
from tests.oracle import operators

ORDERS = ("aten::linalg_vector_norm", "aten::norm", "aten::_foreach_norm")
"""Operators whose second argument, an order, is to be a literal of the call."""


@dataclass(frozen=True)
class Call:
    """A call, the elements of its operands as they are in memory (without conj and neg bits), and its numbers."""

    define: wire.Define
    operands: list[torch.Tensor]
    numbers: tuple[Any, ...]


class Recorder(Worker):
    """A worker that keeps each kind of call that it meets."""

    def __init__(self, name: str, seen: set[bytes]) -> None:
        """`seen`: the kinds of calls that were met before."""
        super().__init__("cpu", name=name)
        self.calls: list[Call] = []
        self._defines: dict[tuple[int, int], wire.Define] = {}
        self._seen = seen

    def _run_items(self, state: Any, items: list[Any], position: int, until: int, frames: Any, replies: Any) -> Any:
        for at in range(position, until):
            item = items[at]
            if isinstance(item, wire.Define):
                self._defines[state.number, item.call] = item
            elif isinstance(item, wire.Op) and (define := self._defines.get((state.number, item.call))) is not None:
                self._keep(state.number, define, item)
            super()._run_items(state, items, at, at + 1, frames, replies)
        return until, []

    def _keep(self, session: int, define: wire.Define, item: wire.Op) -> None:
        if not define.ins or define.op == "gt::backward":
            return
        count = len(define.ins)
        facts_known = with_facts(define, item.args[count:])
        key = _key(facts_known)
        if key in self._seen:
            return
        self._seen.add(key)
        memory = self.host.sessions[session].memory
        try:
            views = [memory.tensor(id, plain(g)) for id, g in zip(item.args, define.ins, strict=False)]
            seen = [view.clone(memory_format=torch.contiguous_format) for view in views]
        except Exception:
            return
        self.calls.append(Call(facts_known, seen, item.args[count:]))


def _key(define: wire.Define) -> bytes:
    return msgspec.msgpack.encode(msgspec.structs.replace(define, call=0, requires_grad=(), grad_mode=False))


def plain(geometry: wire.Geometry) -> wire.Geometry:
    """The geometry of the elements as they are in memory."""
    return msgspec.structs.replace(geometry, conj=False, neg=False)


def with_facts(define: wire.Define, numbers: tuple[Any, ...]) -> wire.Define:
    """The call with what its schema says of it, and with an order as a literal. Without a handle: the call alone."""
    op = table.find(define.op, torch.device("cpu"))
    writes = tuple(facts.written(op, define.args, define.kwargs)[0])
    args = list(define.args)
    if define.op.partition(".")[0] in ORDERS and len(args) > 1 and isinstance(args[1], wire.Number):
        order = numbers[args[1].index]
        args[1] = order if isinstance(order, (int, float)) else args[1]
    handle = bool(define.requires_grad and define.grad_mode)
    outs = define.outs[:-1] if handle else define.outs
    return msgspec.structs.replace(
        define, args=args, outs=outs, requires_grad=(), grad_mode=False, writes=writes, draws=facts.draws(op)
    )


@contextmanager
def recording(seen: set[bytes] | None = None) -> Iterator[list[Call]]:
    """A context in which remote tensors live in this process, and the calls on them that are not in `seen` are kept in a
    list."""
    system = gt.fakes.System()
    recorder = Recorder("worker0", set() if seen is None else seen)
    system.workers[b"worker0"] = recorder
    with system, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield recorder.calls


def finish() -> None:
    """Have everything recorded executed."""
    try:
        torch.zeros(1, device="remote").cpu()
    except Exception:
        return


def of_entry(
    entry: Any, dtypes: tuple[torch.dtype, ...], limit: int | None = None, seen: set[bytes] | None = None
) -> Iterator[Call]:
    """The calls of an entry of the operator database, forward and backward. `limit`: of samples of each dtype."""
    with recording(seen) as calls:
        for dtype in dtypes:
            if not entry.supports_dtype(dtype, "cpu"):
                continue
            gradients = (dtype.is_floating_point or dtype.is_complex) and entry.supports_autograd
            for count, sample in enumerate(operators._samples(entry, dtype, gradients)):
                if limit is not None and count >= limit:
                    break
                _run(entry, sample, gradients)
                finish()
                yield from calls
                calls.clear()


def _run(entry: Any, sample: Any, gradients: bool) -> None:
    args, kwargs = tree_map(operators.to_remote, ((sample.input, *sample.args), sample.kwargs))
    torch.manual_seed(7)
    try:
        result = entry(*args, **kwargs)
        outs, ins = operators._differentiable(result), operators._differentiable((args, kwargs))
        if gradients and outs and ins:
            grads = [torch.randn(o.shape, dtype=o.dtype, device="remote") for o in outs]
            torch.autograd.grad(outs, ins, grads, allow_unused=True)
    except Exception:
        return
