"""How a worker's OpenMP threads wait for their next parallel region. Set before torch, and so libgomp, is imported."""

from __future__ import annotations

import os

OTHERS = 2
"""Other processes that want a core: a client and a dispatcher."""
SPINS = 1000
"""libgomp's own number for a process with more threads than cores; it does not know of other processes.

docs/decisions/003-threads.md.
"""


def leave_room(threads: int) -> None:
    """Make idle threads sleep sooner where the worker's leave no core to the others, which would wait for one that spins.

    `threads`: the number of the worker's threads; 0: one for each core. The user's own settings are left as they are.
    """
    cores = len(os.sched_getaffinity(0))
    if (threads or cores) + OTHERS > cores and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
