"""Placing the tensors of a running program by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from gt.client.session.process import process
from gt.client.stream.operands import operand
from gt.placement.digit import Partial, Underivable, part
from gt.planning.geometry import view_of
from gt.planning.planner import Planner
from gt.wire import instructions as wire
from tests.oracle.sharding.systems import Running


def place(running: Running, tensor: torch.Tensor, placement: Sequence[int | None]) -> bool:
    """Shard a tensor by a dim, for each axis of the mesh (None, or missing: replicated). False if it does not divide."""
    planner, (number, spec, _) = running.planner, operand(tensor)
    assert planner is not None
    geometry, done = spec.to_wire(), True
    for axis, dim in enumerate(placement):
        if dim is None:
            continue
        count, pieces = planner.mesh.sizes[axis], _pieces(planner, placement[:axis], dim)
        if geometry.size[dim] % (count * pieces) or not geometry.stride[dim]:
            done = False
        else:
            weight = geometry.stride[dim] * geometry.size[dim] // (count * pieces)
            done &= cut(running, number, geometry, axis, weight)
    return done


def _pieces(planner: Planner, before: Sequence[int | None], dim: int) -> int:
    pieces = 1
    for axis, other in enumerate(before):
        pieces *= planner.mesh.sizes[axis] if other == dim else 1
    return pieces


def cut(running: Running, number: int, geometry: wire.Geometry, axis: int, weight: int) -> bool:
    """Shard a replicated storage along an axis by a digit. False if no worker's part is a view of it."""
    planner = running.planner
    assert planner is not None
    _settle(running)
    stored = planner.storages.find(number, geometry)
    elements, placed = planner.storages.state(stored).elements, planner.storages.state(stored).placed
    wanted = (*placed[:axis], weight, *placed[axis + 1 :])
    whole = wire.Geometry((elements,), (1,), 0, geometry.dtype)
    if elements % (weight * planner.mesh.sizes[axis]):
        return False
    if any(isinstance(part(view_of(g), wanted, planner.mesh.sizes), Underivable) for g in (geometry, whole)):
        return False
    planner.storages.cut(stored, axis, weight)  # it goes to the workers with the next instructions
    return True


def place_sum(running: Running, tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Make a tensor a pending sum along an axis: each worker holds a part that differs from the others'."""
    planner, (number, spec, _) = running.planner, operand(tensor)
    assert planner is not None
    _settle(running)
    stored = planner.storages.find(number, spec.to_wire())
    coordinate = _coordinates(running, axis)
    session = next(iter(running.system.dispatcher.state.sessions))
    for worker, at in coordinate.items():
        memory = running.system.workers[worker].host.sessions[session].memory
        for view in memory.views(stored.id).values():
            whole = torch.empty(0, dtype=view.dtype).set_(view.untyped_storage())
            share = _share(whole)
            whole.copy_({0: whole - share, 1: share}.get(at, whole * 0))
            break
    planner.storages.place(stored, axis, Partial.SUM)
    return tensor


def _share(whole: torch.Tensor) -> torch.Tensor:
    """One rank's part: of so few digits that the rest is exact."""
    if not whole.dtype.is_floating_point:
        return whole + 3
    return torch.where(whole.isfinite(), whole.bfloat16().to(whole.dtype) * 1.5, 0.0)


def _coordinates(running: Running, axis: int) -> dict[bytes, int]:
    planner = running.planner
    assert planner is not None
    (session,) = running.system.dispatcher.state.sessions.values()
    return {peer: planner.mesh.coordinate(rank)[axis] for rank, peer in enumerate(session.workers)}


def _settle(running: Running) -> None:
    process.flush()
    running.system.settle()


def told_of(running: Running) -> Counter[str]:
    """How calls on placed operands were planned since this was asked last: sharded, reduced or gathered."""
    seen, running.planned[:] = Counter(running.planned), []
    return seen
