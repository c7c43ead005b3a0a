"""Calls that become several instructions when they are sharded: what a rule names as its `lowering`.

Each is written with ATen's own operators and small collectives, so a worker needs no kernel for it. A lowering returns None
where the call's local form alone is right.
"""

from __future__ import annotations

from collections.abc import Callable

from gt.placement.mesh import Mesh
from gt.planning.lowerings import draws, extremes, indexing, losses, softmax
from gt.planning.lowerings.builder import Builder
from gt.planning.plan import Choice, Lowered
from gt.wire.instructions import Define

TABLE: dict[str, Callable[[Builder], Lowered | None]] = {
    "embedding": indexing.embedding,
    "gather": indexing.gather,
    "scatter_add": indexing.scatter_add,
    "largest": extremes.largest,
    "softmax": softmax.softmax,
    "log_softmax": softmax.log_softmax,
    "softmax_backward": softmax.softmax_backward,
    "log_softmax_backward": softmax.log_softmax_backward,
    "nll": losses.nll,
    "nll_backward": losses.nll_backward,
    "mean_backward": losses.mean_backward,
    "dropout": draws.dropout,
    "draw": draws.draw,
}


def lower(name: str, original: Define, local: Define, choice: Choice, mesh: Mesh) -> Lowered | None:
    """The lowering of a call; None where its local form alone is right."""
    return TABLE[name](Builder(original, local, choice, mesh))
