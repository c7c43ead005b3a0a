"""Entries of PyTorch's databases, each with its cases, checked one by one on the remote device against the CPU."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.oracle.operators import Outcome

Case = tuple[Any, ...]


@dataclass(frozen=True)
class Database:
    """Its entries, the directions compared, an entry's cases, and the function that compares one case."""

    entries: list[Any]
    directions: tuple[str, ...]
    cases: Callable[[Any], list[Case]]
    check: Callable[..., set[str]]


class Failure(Exception):
    """A case went wrong, in a direction. `where`: which case."""

    def __init__(self, direction: str, where: str, error: Exception) -> None:
        super().__init__(str(error))
        self.direction, self.where, self.error = direction, where, error


@contextlib.contextmanager
def told(direction: str, where: str) -> Iterator[None]:
    """Any exception inside is this failure."""
    try:
        yield
    except Exception as error:
        raise Failure(direction, where, error) from error


def _failed(name: str, failure: Failure) -> Outcome:
    """The outcome of an entry with a failed case."""
    error = failure.error
    verdict = "wrong" if isinstance(error, AssertionError) else "refused"
    reason = f"{failure.where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Outcome(name, failure.direction, verdict, reason)


def check_entry(database: Database, entry: Any, most: int | None = None) -> list[Outcome]:
    """Check all cases of an entry, or a sample of `most` of them; returns one outcome per direction."""
    cases, compared = database.cases(entry), set[str]()
    for case in cases if most is None or len(cases) <= most else random.Random(0).sample(cases, most):
        try:
            compared |= database.check(entry, *case)
        except Failure as failure:
            before = database.directions[: database.directions.index(failure.direction)]
            return [*(Outcome(entry.name, d, "passed") for d in before), _failed(entry.name, failure)]
    if not compared:
        return [Outcome(entry.name, database.directions[0], "wrong", "nothing was compared: the CPU takes no case")]
    return [Outcome(entry.name, d, "passed") for d in database.directions if d in compared]


def check_all(database: Database, entries: Iterable[Any], most: int | None = None) -> list[Outcome]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [outcome for entry in entries for outcome in check_entry(database, entry, most)]


def surprises(outcomes: list[Outcome]) -> list[str]:
    """Wrong values and refusals."""
    return [f"{o.direction} {o.entry}: {o.verdict}: {o.reason}" for o in outcomes if o.verdict != "passed"]
