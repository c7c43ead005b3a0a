"""Interleavings of a crowded service: sessions of one and of several workers that all have much to do, and nobody hangs.

    python -m tests.sim.gangs 10000 [SEED]

The peers are honest, and work and report in any order. Workers die and join, clients leave and come. Each worker waits in
its gang's collectives as real ones do; `World.rest` fails if all that are left wait for each other.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable

from tests.sim.histories import World

LENGTH = 600
OFTEN: list[Callable[[World], object]] = [World.client_runs, World.client_posts, World.worker_works, World.worker_posts]
SELDOM: list[Callable[[World], object]] = [World.join_client, World.client_leaves, World.worker_dies, World.join_worker]
HAPPENS = [*OFTEN * 12, *SELDOM]


def play(seed: int) -> World:
    """Play one interleaving to its end."""
    world = World(random.Random(seed).randbytes(LENGTH), rogues=False)
    for _ in range(4):
        world.join_worker()
        world.join_client()
    for peer in [*world.workers, *world.clients]:
        world.post(peer)
    while not world.pick.over:
        world.pick.one(HAPPENS)(world)
    world.settle()
    return world


def play_many(count: int, number: int) -> Counter[int]:
    """Play interleavings; returns how many slices gangs of each size have executed."""
    executed: Counter[int] = Counter()
    for seed in range(number * count, (number + 1) * count):
        try:
            world = play(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        for gang in world.gangs.values():
            executed[len(gang.begun)] += gang.begun[0]
    return executed


if __name__ == "__main__":
    began = time.monotonic()
    wanted, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    slices = ", ".join(f"{n} of gangs of {size}" for size, n in sorted(play_many(wanted, first).items()))
    print(f"{wanted} interleavings, no deadlock; slices: {slices}; {time.monotonic() - began:.0f} s")
