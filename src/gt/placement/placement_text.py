"""Placements as text: `replicate`, `shard(0)`, `shard(0, parts=3)`, `fully_shard`. `str` of a placement writes it."""

from __future__ import annotations

import re
from typing import NamedTuple

from gt.errors import ConfigError
from gt.placement.layout import DIMS, MOST_PARTS, FullyShard, Placement, Replicate, Shard
from gt.placement.written import meant, quoted


class _Argument(NamedTuple):
    """One of a placement's: `legal` are its values, and it is needed if there is no default."""

    name: str
    legal: range
    needed: bool = False


class _Form(NamedTuple):
    kind: type[Replicate] | type[Shard] | type[FullyShard]
    arguments: tuple[_Argument, ...] = ()


FORMS = {
    "replicate": _Form(Replicate),
    "shard": _Form(Shard, (_Argument("dim", DIMS, True), _Argument("parts", range(1, MOST_PARTS + 1)))),
    "fully_shard": _Form(FullyShard, (_Argument("dim", DIMS),)),
}
LEGAL = "replicate, shard(DIM), shard(DIM, parts=N), fully_shard, fully_shard(DIM)"
_TEXT = re.compile(r"([^\s()]+)\s*(?:\(([^()]*)\))?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")


def read(text: str) -> Placement:
    """The placement of a text. Raises ConfigError, which says what is legal."""
    found = _TEXT.fullmatch(text.strip())
    word, given = found.groups() if found else (text, None)
    form = FORMS.get(word)
    if form is None:
        raise _unknown(text)
    values: dict[str, int] = {}
    for place, argument in enumerate((given or "").split(",") if (given or "").strip() else ()):
        name, value = _argument(text, form, place, argument)
        if name in values:
            raise ConfigError(f"{quoted(text)} gives {name} twice; legal: {LEGAL}")
        values[name] = value
    for missing in (one.name for one in form.arguments if one.needed and one.name not in values):
        raise ConfigError(f"{quoted(text)} lacks the dimension, {missing}; legal: {LEGAL}")
    return form.kind(**values)


def _unknown(text: str) -> ConfigError:
    if text.count("(") > text.count(")"):
        return ConfigError(f'unknown placement {quoted(text)}; quote what has a comma inside {{ }}: "shard(0, parts=3)"')
    return ConfigError(f"unknown placement {quoted(text)}; legal: {LEGAL}{meant(text.partition('(')[0], FORMS)}")


def _argument(text: str, form: _Form, place: int, argument: str) -> tuple[str, int]:
    """The name and the value of `0` or `parts=3`."""
    before, equals, after = (piece.strip() for piece in argument.partition("="))
    known = {one.name: one.legal for one in form.arguments}
    if not equals and place >= len(known):
        raise ConfigError(f"{quoted(text)} has too many arguments; legal: {LEGAL}")
    name, value = (before, after) if equals else (list(known)[place], before)
    if name not in known:
        raise ConfigError(f"{quoted(text)} has an unknown argument {quoted(name)}; legal: {LEGAL}{meant(name, known)}")
    if not _INTEGER.fullmatch(value) or int(value) not in known[name]:
        legal = f"an integer from {known[name][0]} to {known[name][-1]:,}"
        raise ConfigError(f"{name} in {quoted(text)} is {quoted(value)}; legal: {legal}")
    return name, int(value)
