"""How a worker's OpenMP threads wait for their next parallel region. Set before torch, and so libgomp, is imported."""

from __future__ import annotations

import os

OTHERS = 2
"""Who else wants a core: a client and a dispatcher."""
SPINS = 1000
"""libgomp's own number for a process with more threads than cores; it can't know of other processes. 003-threads.md."""


def leave_room(threads: int) -> None:
    """Let idle threads soon sleep where the worker's take all cores: the others would wait for one that spins.

    `threads`: how many the worker has; 0: one for each core. What the user set stands.
    """
    cores = len(os.sched_getaffinity(0))
    if (threads or cores) + OTHERS > cores and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
