"""Which rows form a batch: in random order, with similar lengths, or packed several to a row."""

from __future__ import annotations

import argparse
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from prepared import Batch, Rows, padded

NEARBY = 50
"""Batches of similar lengths are formed among the rows of so many batches."""


@dataclass(frozen=True)
class Packed:
    """Rows packed several to a row, with the methods of `Rows`. They never see each other: Batch.documents."""

    rows: Rows
    bins: list[list[int]]

    @classmethod
    def of(cls, rows: Rows, width: int) -> Packed:
        """Rows of at most `width` tokens. Raises UserError if one does not fit."""
        rows.check_longest(width)
        return cls(rows, best_fit_decreasing(rows.lengths, width))

    def __len__(self) -> int:
        return len(self.bins)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each packed row."""
        return np.array([self.rows.lengths[members].sum() for members in self.bins])

    def tokens(self, chosen: np.ndarray) -> int:
        """Number of tokens in packed rows, without padding."""
        return int(self.lengths[chosen].sum())

    def batch(self, chosen: np.ndarray, pad: int) -> Batch:
        """Packed rows as a batch; `pad`: the id of the padding."""
        bins = [self.bins[i] for i in chosen]
        batch = self.rows.fill(bins, pad)
        documents, positions = np.empty_like(batch.ids), np.empty_like(batch.ids)
        for line, members in enumerate(bins):
            lengths = self.rows.lengths[members]
            lengths = np.append(lengths, batch.ids.shape[1] - lengths.sum())  # the padding is the last document
            documents[line] = np.repeat(np.arange(len(lengths)), lengths)
            positions[line] = np.arange(batch.ids.shape[1]) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return replace(batch, positions=positions, documents=documents)


def best_fit_decreasing(lengths: np.ndarray, width: int) -> list[list[int]]:
    """Bins of at most `width`: each item, longest first, goes where it leaves the least space, or into a new bin."""
    bins: list[list[int]] = []
    with_space: dict[int, list[int]] = defaultdict(list)  # space left -> bins
    spaces: list[int] = []  # its keys in order
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        place = bisect_left(spaces, length)
        if place < len(spaces):
            space = spaces[place]
            chosen = with_space[space].pop()
            if not with_space[space]:
                del spaces[place]
        else:
            space, chosen = width, len(bins)
            bins.append([])
        bins[chosen].append(item)
        left = space - length
        if not with_space[left]:
            insort(spaces, left)
        with_space[left].append(chosen)
    return bins


def order(rows: Rows | Packed, random: np.random.Generator, given: argparse.Namespace) -> np.ndarray:
    """All rows in the order of an epoch, drawn by `random`."""
    drawn = random.permutation(len(rows))
    if not given.bucket:
        return drawn
    size = given.batch_size * given.accumulate
    near = NEARBY * size
    chunks = [drawn[start : start + near] for start in range(0, len(drawn), near)]
    by_length = np.concatenate([chunk[np.argsort(-rows.lengths[chunk], kind="stable")] for chunk in chunks])
    full = len(rows) // size * size  # the last batch may be smaller, and stays the last
    shuffled = random.permutation(by_length[:full].reshape(-1, size))
    return np.concatenate([shuffled.ravel(), by_length[full:]])


def batches(rows: Rows | Packed, given: argparse.Namespace) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(step, micro-batches of row numbers), epoch by epoch, each in its own order drawn by the seed."""
    random = np.random.default_rng(given.seed)
    group = given.batch_size * given.accumulate
    step = 0
    for _ in range(given.epochs):
        chosen = order(rows, random, given)
        for start in range(0, len(chosen), group):
            yield step, _split(chosen[start : start + group], given.batch_size)
            step += 1


def _split(chosen: np.ndarray, size: int) -> list[np.ndarray]:
    return [chosen[i : i + size] for i in range(0, len(chosen), size)]


def padding(rows: Rows | Packed, given: argparse.Namespace) -> float:
    """The share of padding in the batches of the first epoch."""
    chosen = order(rows, np.random.default_rng(given.seed), given)
    made = sum(len(batch) * padded(int(rows.lengths[batch].max())) for batch in _split(chosen, given.batch_size))
    return 1 - int(rows.lengths.sum()) / made
