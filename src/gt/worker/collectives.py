"""The instructions between the workers of one session.

A worker takes part in every collective, also with a storage that an error spoiled here: it contributes zeros, so that nobody
waits in vain, and what comes out stays spoiled here. It says so at the next request, and then the client is told the error
and no value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gt.errors import ProtocolError
from gt.wire import instructions as wire
from gt.wire.messages import Failure
from gt.worker.failures import failure_of
from gt.worker.geometry import dtype_of
from gt.worker.group import Group
from gt.worker.host import Host
from gt.worker.memory import Memory, PoisonedError
from gt.worker.session import WorkerSession
from gt.worker.under_way import Collective, made

LARGE_BYTES = 64 << 10
"""Parts from this size on travel by themselves: gloo takes less time for another message than for copying them."""
SUMMED = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
    torch.int32, torch.int64, torch.uint8, torch.int8,
)  # fmt: skip
"""dtypes that gloo can add."""


def begin(host: Host, session: WorkerSession, item: Any) -> Collective | None:
    """Begin an instruction of `HANDLERS`; None if it is done already. Raises ProtocolError in a session of one worker."""
    if session.group is None:
        raise ProtocolError(f"{type(item).__name__} in a session of one worker")
    return HANDLERS[type(item)](host, session, session.group, item)


class _Flat:
    """A part of a collective: all elements of its storage, in a row; zeros where the storage is spoiled."""

    def __init__(self, session: WorkerSession, part: wire.Part) -> None:
        self.part = part
        self.dtype = dtype_of(part.dtype)
        self.spoiled: Failure | None = None
        try:
            self.elements = elements_of(session.memory, part.id, self.dtype, part.elements)
        except PoisonedError as error:
            self.spoiled = error.failure
        except RuntimeError as error:
            self.spoiled = failure_of(error, "collective", 0)
            session.note(self.spoiled)
        if self.spoiled is not None:
            self.elements = torch.zeros(part.elements, dtype=self.dtype, device=session.memory.device)

    def leave(self) -> None:
        """The elements are on their way: hold them no longer than that."""
        del self.elements

    def replace(self, session: WorkerSession, elements: torch.Tensor) -> None:
        """Let `elements` be those of the storage, in place: graphs and views keep it."""
        if self.spoiled is not None:
            session.memory.lose([self.part.id], self.spoiled)
        elif elements.data_ptr() != self.elements.data_ptr():
            self.elements.copy_(elements)

    def keep(self, session: WorkerSession, elements: torch.Tensor) -> None:
        """Make `elements` the storage that the part makes; a spoiled part makes a spoiled one."""
        id = self.part.out or self.part.id
        if self.spoiled is not None:
            session.memory.lose([id], self.spoiled)
        else:
            put(session.memory, id, elements)


def elements_of(memory: Memory, id: int, dtype: torch.dtype, count: int) -> torch.Tensor:
    """All elements of a storage, in a row. Raises as `Memory.views`, and RuntimeError for another number of elements."""
    member = next(iter(memory.views(id).values()))
    if not isinstance(member, torch.Tensor):
        raise RuntimeError(f"storage {id} is a handle, not a tensor")
    storage = member.untyped_storage()
    if storage.nbytes() != count * dtype.itemsize:
        raise RuntimeError(
            f"storage {id} has {storage.nbytes()} bytes and not {count} elements of {dtype}: please report this"
        )
    return torch.empty(0, dtype=dtype, device=memory.device).set_(storage, 0, (count,), (1,))  # type: ignore[call-overload, no-any-return]


def all_elements(memory: Memory, id: int) -> torch.Tensor:
    """All elements of a storage, in a row, in the dtype of its first view. Raises as `Memory.views`."""
    member = next(iter(memory.views(id).values()))
    return elements_of(memory, id, member.dtype, member.untyped_storage().nbytes() // member.dtype.itemsize)


def put(memory: Memory, id: int, elements: torch.Tensor) -> None:
    """Make the elements, which have a storage of their own, the storage `id`."""
    name = str(elements.dtype).removeprefix("torch.")
    memory.put(id, wire.Geometry((elements.numel(),), (1,), 0, name), elements)


def parts_by_digit(elements: torch.Tensor, count: int, weight: int) -> torch.Tensor:
    """The elements of each of `count` ranks, one row each."""
    return elements.view(-1, count, weight).movedim(1, 0).reshape(count, -1)


def joined_by_digit(rows: torch.Tensor, weight: int) -> torch.Tensor:
    """The elements that the ranks' rows make up: the inverse of `parts_by_digit`."""
    return rows.view(rows.shape[0], -1, weight).movedim(0, 1).reshape(-1)


# -- reductions ----------------------------------------------------------------------------------------------------------


def _lots(flats: Sequence[_Flat]) -> list[list[_Flat]]:
    """What travels together: a large part by itself, so that it is not copied, small ones of a dtype with each other."""
    large = [flat for flat in flats if flat.elements.nbytes >= LARGE_BYTES]
    small: dict[torch.dtype, list[_Flat]] = {}
    for flat in flats:
        if flat.elements.nbytes < LARGE_BYTES:
            small.setdefault(flat.dtype, []).append(flat)
    return [*([flat] for flat in large), *small.values()]


def _joined(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    return torch.cat(tuple(tensors), dim) if len(tensors) > 1 else tensors[0]


def _all_reduce(host: Host, session: WorkerSession, group: Group, item: wire.AllReduce) -> Collective:
    flats = [_Flat(session, part) for part in item.parts]
    pending, finishers = [], []
    for lot in _lots(flats):
        buffer = _for_reduction(_joined([flat.elements for flat in lot]), item.kind)
        pending.append(group.all_reduce(item.axis, buffer, "max" if item.kind == "max" else "sum"))
        finishers.append((lot, buffer))

    def finish() -> None:
        for lot, buffer in finishers:
            whole = _reduced(buffer, item.kind, group.mesh.sizes[item.axis])
            for flat, own in zip(lot, whole.split([flat.part.elements for flat in lot]), strict=True):
                flat.replace(session, own)

    return Collective(pending, finish, _failing(session, item))


def _reduce_scatter(host: Host, session: WorkerSession, group: Group, item: wire.ReduceScatter) -> Collective:
    count = group.mesh.sizes[item.axis]
    flats = [_Flat(session, part) for part in item.parts]
    pending, finishers = [], []
    for lot in _lots(flats):
        rows = _joined([parts_by_digit(flat.elements, count, flat.part.weight) for flat in lot], 1)
        rows = _for_reduction(rows, item.kind)
        own = torch.empty_like(rows[0])
        pending.append(group.reduce_scatter(item.axis, own, rows))
        finishers.append((lot, own))
    for flat in flats:
        flat.leave()

    def finish() -> None:
        for lot, own in finishers:
            whole = _reduced(own, item.kind, count)
            for flat, piece in zip(lot, whole.split([flat.part.elements // count for flat in lot]), strict=True):
                flat.keep(session, piece.to(flat.dtype) if len(lot) == 1 else piece.to(flat.dtype).clone())

    return Collective(pending, finish, _failing(session, item))


def _for_reduction(buffer: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "norm":
        return buffer.square()
    return buffer if buffer.dtype in SUMMED else buffer.to(torch.int64)


def _reduced(buffer: torch.Tensor, kind: str, count: int) -> torch.Tensor:
    if kind == "norm":
        return buffer.sqrt()
    return buffer.div(count) if kind == "average" else buffer


# -- gathering -----------------------------------------------------------------------------------------------------------


def _all_gather(host: Host, session: WorkerSession, group: Group, item: wire.AllGather) -> Collective:
    count = group.mesh.sizes[item.axis]
    flats = [_Flat(session, part) for part in item.parts]
    pending, finishers = [], []
    for lot in _lots(flats):
        sent = _joined([flat.elements.view(torch.uint8) for flat in lot])
        rows = torch.empty((count, *sent.shape), dtype=torch.uint8, device=sent.device)
        pending.append(group.all_gather(item.axis, rows, sent))
        finishers.append((lot, rows))
    for flat in flats:
        flat.leave()

    def finish() -> None:
        for lot, rows in finishers:
            sizes = [flat.part.elements * flat.dtype.itemsize for flat in lot]
            for flat, columns in zip(lot, rows.split(sizes, 1), strict=True):
                own = columns.reshape(-1).view(flat.dtype).view(count, -1)
                flat.keep(session, joined_by_digit(own, flat.part.weight))

    return Collective(pending, finish, _failing(session, item))


def _failing(session: WorkerSession, item: Any) -> Callable[[Exception], None]:
    return lambda error: session.fail(made(item), error, type(item).__name__, 0)


def own_part(group: Group, digits: Sequence[tuple[int, int]], elements: torch.Tensor) -> torch.Tensor:
    """This worker's part of the elements of a storage: the digits, of an axis and a weight each, are its coordinates."""
    for axis, weight in digits:
        rows = elements.view(-1, group.mesh.sizes[axis], weight)
        elements = rows[:, _coordinate(group, axis)].reshape(-1)
    return elements


# -- local instructions: what this worker keeps of a replicated storage ----------------------------------------------------


def _cut(host: Host, session: WorkerSession, group: Group, item: wire.Cut) -> None:
    own = own_part(group, ((item.axis, item.weight),), all_elements(session.memory, item.id))
    put(session.memory, item.id, own.clone())


def _slice(host: Host, session: WorkerSession, group: Group, item: wire.Slice) -> None:
    try:
        whole, count = session.memory.tensor(item.id, item.geometry), group.mesh.sizes[item.axis]
        shape, own = whole.shape, _coordinate(group, item.axis)
        before, after = shape[: item.dim], shape[item.dim + 1 :]
        rows = whole.reshape(*before, shape[item.dim] // (count * item.weight), count, item.weight, *after)
        mine = rows.select(item.dim + 1, own).reshape(*before, shape[item.dim] // count, *after)
        put(
            session.memory, item.out, mine.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format).view(-1)
        )
    except RuntimeError as error:
        session.fail([item.out], error, "slice", 0)


def _once(host: Host, session: WorkerSession, group: Group, item: wire.Once) -> None:
    try:
        elements = all_elements(session.memory, item.id)
        first = _coordinate(group, item.axis) == 0
        put(session.memory, item.out, elements.clone() if first else torch.zeros_like(elements))
    except RuntimeError as error:
        session.fail([item.out], error, "once", 0)


def _make_coordinate(host: Host, session: WorkerSession, group: Group, item: wire.Coordinate) -> None:
    value = torch.tensor(_coordinate(group, item.axis) * item.scale, dtype=torch.int64, device=session.memory.device)
    session.memory.put(item.out, wire.Geometry((), (), 0, "int64"), value)


def _coordinate(group: Group, axis: int) -> int:
    return group.mesh.coordinate(group.rank)[axis]


# -- after an error: whether this worker has the values that the others have ---------------------------------------------


def _verdict(host: Host, session: WorkerSession, group: Group, item: wire.Verdict) -> None:
    failed = session.failed_check is not None or any(not _has(session.memory, id) for id in item.ids)
    value = torch.tensor(int(failed), dtype=torch.int64, device=session.memory.device)
    session.memory.put(item.out, wire.Geometry((), (), 0, "int64"), value)


def _has(memory: Memory, id: int) -> bool:
    try:
        memory.views(id)
    except (PoisonedError, RuntimeError):
        return False
    return True


def _same_generator(host: Host, session: WorkerSession, group: Group, item: wire.SameGenerator) -> Collective:
    own = host.runner.random.state(session.number).to(session.memory.device)
    rows = torch.empty((group.mesh.sizes[item.axis], *own.shape), dtype=own.dtype, device=own.device)

    def finish() -> None:
        host.runner.random.set_state(session.number, rows[0].cpu())
        session.missed_draw = None

    return Collective([group.all_gather(item.axis, rows, own)], finish, _failing(session, item))


def _recover(host: Host, session: WorkerSession, group: Group, item: wire.Recover) -> None:
    session.memory.recover(item.ids)


Handler = Callable[[Host, WorkerSession, Group, Any], Collective | None]
HANDLERS: dict[type, Handler] = {
    wire.AllReduce: _all_reduce,
    wire.ReduceScatter: _reduce_scatter,
    wire.AllGather: _all_gather,
    wire.Cut: _cut,
    wire.Slice: _slice,
    wire.Once: _once,
    wire.Coordinate: _make_coordinate,
    wire.Verdict: _verdict,
    wire.SameGenerator: _same_generator,
    wire.Recover: _recover,
}
"""What begins each instruction; those that return None need no other worker."""
