"""Collectives of `torch.distributed` on remote tensors: in a group of one process they give what a CPU's give.

The processes of a larger group have a session each, and none of them sees another's tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from gt.client.calls.schemas import OpOverload
from gt.errors import RefusedError

Tensor = torch.Tensor
SEVERAL = (
    "c10d::{}: the {} processes of this group have a session each, and cannot exchange remote tensors. Run one process and"
    " give it all workers by a sharding file, GT_CONFIG=FILE (docs/sharding.md); or exchange tensors that are on the CPU"
    " (tensor.cpu())"
)
UNCHANGED = {"allreduce_", "allreduce_coalesced_", "broadcast_", "reduce_"}
"""Collectives that leave the tensors of a group of one as they are."""


def register(library: torch.library.Library) -> None:
    """Register the kernels of all collectives. `library`: one for the namespace `c10d`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about kernels that override PyTorch's own, which ask a backend of the group
        for op, position in _collectives():
            run = kernel(op, position)
            for key in ("PrivateUse1", "SparsePrivateUse1"):
                library.impl(op.name().removeprefix("c10d::"), run, key, allow_override=True)


def _collectives() -> Iterator[tuple[OpOverload, int]]:
    """The operators that take a group, each with the position of that argument."""
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("c10d::"):
            op = getattr(torch.ops.c10d, name.removeprefix("c10d::")).default
            named = [argument.name for argument in op._schema.arguments]
            if "process_group" in named:
                yield op, named.index("process_group")


def kernel(op: OpOverload, position: int) -> Callable[..., Any]:
    """The kernel of a collective, whose group is the argument at `position`.

    Raises RefusedError in a group of several processes, else what the CPU's kernel raises.
    """
    name = op._schema.name.removeprefix("c10d::")

    def run(*args: Any) -> Any:
        group = torch.distributed.ProcessGroup.unbox(args[position])
        if group.size() > 1:
            raise RefusedError(SEVERAL.format(name, group.size()))
        with torch.no_grad():
            _run_alone(op, args, name in UNCHANGED)
        return _returned(op, args[0])

    return run


def _run_alone(op: OpOverload, args: tuple[Any, ...], unchanged: bool) -> None:
    """Run a collective on copies on the CPU, the first of which it writes. Where it leaves tensors as they are, it is run on
    one element of each, for its errors.
    """
    of_strided = all(t.layout is torch.strided for t in tree_leaves(args) if isinstance(t, Tensor))
    if unchanged and of_strided:
        _wait(op(*tree_map_only(Tensor, lambda t: torch.zeros(1, dtype=t.dtype), args)))
        return
    local = tree_map_only(Tensor, lambda t: t.cpu(), args)
    _wait(op(*local))
    for written, result in zip(tree_leaves(args[0]), tree_leaves(local[0]), strict=True):
        written.copy_(result)


def _wait(returned: Any) -> None:
    work = returned[-1] if isinstance(returned, tuple) else returned
    if work is not None:
        torch.distributed.Work.unbox(work).wait()


def _returned(op: OpOverload, written: Any) -> Any:
    """What the collective returns: the tensors that it has written, work that is done, or nothing."""
    from torch._C._distributed_c10d import _create_work_from_future  # late import: not every PyTorch has it

    future: torch.futures.Future[Any] = torch.futures.Future()
    future.set_result(tree_leaves(written))
    returns = len(op._schema.returns)
    work = _create_work_from_future(future).boxed() if returns else None
    return (written, work) if returns == 2 else work
