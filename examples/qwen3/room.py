"""Whether a run fits the workers' memory, and what would help if it does not; before anything is loaded."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import torch
from config import Config
from memory import Needed, needed, shown
from problems import UserError

FEWEST_TOKENS = 128
"""Rows are not advised to be shorter."""
SUGGESTED = 3
"""At most so many ways are suggested."""


@dataclass(frozen=True)
class Room:
    """What the workers have for new tensors: `share`, the bytes of each that has the least, and how many they are.

    `copies_elsewhere`: a checkpoint's copy is not made in that memory, since the workers' tensors are on GPUs.
    """

    share: float
    workers: int
    copies_elsewhere: bool = False

    def holds(self, found: Needed) -> bool:
        """Whether a run fits if its tensors are divided as well as they can be."""
        return found.of_each(self.workers) <= self.share

    def holds_copy(self, found: Needed) -> bool:
        """Whether the copy fits besides, from which a checkpoint is written while training goes on."""
        return self.copies_elsewhere or found.of_each(self.workers) + found.snapshot <= self.share

    def __str__(self) -> str:
        if "gt" not in sys.modules:
            return f"this machine has {shown(self.share)} free"
        if self.workers == 1:
            return f"the worker has {shown(self.share)} free"
        return f"the {self.workers} workers have {shown(self.share)} free each"


def available() -> Room | None:
    """What there is; None if that cannot be known."""
    if "gt" not in sys.modules:
        return _room_of_machine()
    debug = sys.modules["gt"].debug
    workers = debug.where(torch.zeros((), device="remote")).workers
    counted = [debug.stats(i) for i in range(len(workers))]
    hosts = [worker.host for worker in workers]
    sharing = (hosts.count(host) if stats.device_bytes is None else 1 for host, stats in zip(hosts, counted, strict=True))
    share = min(stats.free_bytes / count for stats, count in zip(counted, sharing, strict=True))
    return Room(share, len(workers), all(stats.device_bytes is not None for stats in counted))


def _room_of_machine() -> Room | None:
    """What Linux says is available; other systems do not say it without a library."""
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        return None
    return Room(1024 * int(found[1]), 1) if found else None


@dataclass(frozen=True)
class Verdict:
    """What a run needs and what there is, for people. `copies`: whether a checkpoint's copy fits besides."""

    text: str
    copies: bool = True

    def __str__(self) -> str:
        waits = "" if self.copies else "; training waits while a checkpoint is written, for lack of room"
        return self.text + waits


def check(config: Config, given: argparse.Namespace, stored: int, room: Room | None) -> Verdict:
    """Compares what a run needs with what there is. Raises UserError, with what would help, if the run cannot fit.

    stored: bytes of an element in the checkpoint's files. Of several workers each needs at least its share of the whole; how
    much more depends on the sharding file.
    """
    is_copied = "gt" in sys.modules
    found = needed(config, given, stored, is_copied)
    if room is None:
        return Verdict(f"Memory: {found}")
    if room.holds(found):
        return Verdict(f"Memory: {found}; {room}", room.holds_copy(found))
    ways = [_as_options(change) for change in remedies(config, given, stored, room, is_copied)]
    if is_copied:
        workers = math.ceil(found.peak / room.share)
        ways.append(f"{workers} such workers and a sharding file that divides everything")
    told = f": use {', or '.join(ways)}" if ways else ", and no option changes that"
    raise UserError(f"{given.model}: needs {found}, {room}{told}")


def remedies(config: Config, given: argparse.Namespace, stored: int, room: Room, is_copied: bool) -> list[dict[str, object]]:
    """The smallest changes of the options with which a run fits: of one option, or of as few as it takes."""

    def fits(change: dict[str, object]) -> bool:
        changed = argparse.Namespace(**{**vars(given), **change})
        return room.holds(needed(config, changed, stored, is_copied))

    choices = _choices(given)
    for count in range(1, len(choices) + 1):
        tried = (_mildest(keys, choices, fits) for keys in combinations(choices, count))
        if found := [change for change in tried if change]:
            return found[:SUGGESTED]
    return []


def _choices(given: argparse.Namespace) -> dict[str, list[object]]:
    """What could be changed, from the mildest value to the strongest."""
    choices: dict[str, list[object]] = {
        "lora": [] if given.lora else [True],
        "precision": [] if given.precision == "bf16" else ["bf16"],
        "activation_checkpointing": [] if given.activation_checkpointing else [True],
        "batch_size": _halves(given.batch_size, 1),
        "max_tokens": _halves(given.max_tokens, FEWEST_TOKENS),
    }
    return {name: values for name, values in choices.items() if values}


def _halves(value: int, least: int) -> list[object]:
    return [value >> i for i in range(1, value.bit_length()) if value >> i >= least]


def _mildest(
    names: tuple[str, ...], choices: dict[str, list[object]], fits: Callable[[dict[str, object]], bool]
) -> dict[str, object] | None:
    changes = (dict(zip(names, values, strict=True)) for values in product(*(choices[name] for name in names)))
    return next(filter(fits, changes), None)


def _as_options(change: dict[str, object]) -> str:
    flags = (f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in change.items())
    return " ".join(flags)
