"""Scopes: names for what is recorded inside them."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from gt.client.stream.segment import recorder
from gt.wire import instructions as wire

MOST_NAMES = 4096
"""Names that are kept: a program that keeps making new ones must not fill the memory."""


class _Open(NamedTuple):
    """A scope that was entered. `number`: by which it is known apart from the other times that one was."""

    scope: scope
    number: int


_open: list[_Open] = []
"""The open scopes of the process, outermost first: all its threads record one stream."""
_numbers = itertools.count(1)
names: set[str] = set()
"""The names of the scopes that have been entered, apart from those of modules."""


class scope:  # noqa: N801
    """`with gt.scope("encoder"):` names what is recorded inside, for logs and placement. Results never depend on it.

    It covers whatever the process records meanwhile, on every thread. Scopes may end in any order, as they do in generators
    and threads: each removes its own name from the path. Raises TypeError for a name that is not a string.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a scope's name is a string, not {type(name).__name__}")
        self.name = name

    def __enter__(self) -> scope:
        with recorder.lock:
            _open.append(_Open(self, next(_numbers)))
            if type(self) is scope and len(names) < MOST_NAMES:
                names.add(self.name)
            _record_path()
        return self

    def __exit__(self, *_: object) -> None:
        with recorder.lock:
            del _open[max(i for i, one in enumerate(_open) if one.scope is self)]
            _record_path()


class module_scope(scope):  # noqa: N801
    """The scope of a module at the path `name`, which begins with the paths of the modules around it."""


def _record_path() -> None:
    """Record the path of names. Sends nothing, so that no scope begins or ends with another operation's error."""
    innermost = next((one for one in reversed(_open) if type(one.scope) is module_scope), None)
    path = (one.scope.name for one in _open if type(one.scope) is scope or one is innermost)
    blocks = tuple((one.number, one.scope.name) for one in _open if type(one.scope) is scope)
    recorder.segment.append(wire.Scope("/".join(path), blocks))


def record_open_scopes() -> None:
    """Record the open scopes, for a worker or a service that knows none yet."""
    if _open:
        _record_path()
