"""Patterns over dotted names, as they select parameters, inputs and scopes.

A name is a row of components between dots. `*` stands for any characters within one component, `**` for any number of whole
components (also none), `{a,b}` for `a` or `b`; everything else stands for itself, and a pattern matches a whole name.
Scopes nest with `/` between their names, modules with `.`: in patterns and in names the two are the same.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

from gt.errors import ConfigError

LONGEST = 1_000
"""The most characters of a pattern."""
MOST_ALTERNATIVES = 256
"""The most patterns without braces that one with braces may stand for."""
_SEPARATOR = re.compile(r"[./]")
_BRACES = re.compile(r"(\{[^{}]*\})")
_Run = TypeVar("_Run", bound="Sequence[object]")


class Pattern:
    """A pattern, compiled. Raises ConfigError for one that is not well formed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._alternatives = [_runs(one) for one in _without_braces(text)]

    def matches(self, name: str) -> bool:
        """Whether the whole name fits, in a time of at most the product of both lengths."""
        names = _SEPARATOR.split(name)

        def fits(run: list[list[str]], start: int) -> bool:
            return all(_component_matches(pieces, names[start + i]) for i, pieces in enumerate(run))

        return any(_in_order(runs, len(names), fits) for runs in self._alternatives)


@lru_cache(4096)
def compiled(text: str) -> Pattern:
    """The pattern of a text, compiled once. Raises ConfigError."""
    return Pattern(text)


def _without_braces(text: str) -> list[str]:
    """The patterns without braces that a pattern stands for: one for each choice of alternatives."""
    if not text:
        raise ConfigError("a pattern is not empty; ** matches every name")
    if len(text) > LONGEST:
        raise ConfigError(f"a pattern has at most {LONGEST:,} characters; this one has {len(text):,}")
    choices = [_choices(piece) for piece in _BRACES.split(text)]
    if math.prod(map(len, choices)) > MOST_ALTERNATIVES:
        raise ConfigError(f"the braces stand for more than {MOST_ALTERNATIVES} patterns")
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(piece: str) -> list[str]:
    if piece.startswith("{") and piece.endswith("}"):
        if not piece[1:-1].strip():
            raise ConfigError("there is nothing between the braces; legal: {a,b}")
        return [alternative.strip() for alternative in piece[1:-1].split(",")]
    if "{" in piece or "}" in piece:
        raise ConfigError("braces come in pairs, and not inside each other; legal: {a,b}")
    return [piece]


def _runs(text: str) -> list[list[list[str]]]:
    """The rows of components between the `**`, each component as the literal pieces between its `*`."""
    runs: list[list[list[str]]] = [[]]
    for component in _SEPARATOR.split(text):
        if component == "**":
            runs.append([])
        elif "**" in component:
            raise ConfigError(f"** stands between dots, for whole components, not as in {component!r}; legal: *, or **.")
        elif not component:
            raise ConfigError("a component is empty: a dot at the start, at the end, or after another dot")
        else:
            runs[-1].append(component.split("*"))
    return runs


def _component_matches(pieces: list[str], text: str) -> bool:
    return _in_order(pieces, len(text), text.startswith)


def _in_order(runs: list[_Run], length: int, fits: Callable[[_Run, int], bool]) -> bool:
    """Whether the runs lie one after the other in something of that length: the first at its start, the last at its end.

    `fits` says whether a run lies at a position. Each run in between takes the first place that is free, which leaves the
    most to those that follow, so nothing is tried twice.
    """
    first, last = runs[0], runs[-1]
    if len(runs) == 1:
        return len(first) == length and fits(first, 0)
    start, stop = len(first), length - len(last)
    if start > stop or not fits(first, 0) or not fits(last, stop):
        return False
    for run in runs[1:-1]:
        places = range(start, stop - len(run) + 1)
        found = next((place for place in places if fits(run, place)), None)
        if found is None:
            return False
        start = found + len(run)
    return True
