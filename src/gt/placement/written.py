"""A configuration as somebody wrote it, in YAML or in Python: values with their places, and errors that name them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from gt.errors import ConfigError

LONGEST_SHOWN = 60


class Written(NamedTuple):
    """A value, where it is written (`sharding.yaml:4`), and how a message calls it.

    The value is a str, an int, a placement, a list of values, or a `WrittenMapping`; None stands for all that no setting
    can be.
    """

    value: object
    origin: str
    got: str


class WrittenMapping(list[tuple[Written, Written]]):
    """A mapping as it is written, keys and values in order: a key may be there twice."""


def quoted(text: str) -> str:
    """A text in quotes, printable and short."""
    return repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "...")


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a message: the known word that is most like a word, if one is."""
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word[:LONGEST_SHOWN].lower(), by_lower, 1, 0.5)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def fault(at: Written, subject: str, problem: str) -> ConfigError:
    """The error about something written: where, what it belongs to, and what is wrong."""
    return ConfigError(": ".join(part for part in (at.origin, subject, problem) if part))
