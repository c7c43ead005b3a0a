"""Scopes: names for what is recorded inside them."""

from __future__ import annotations

from gt.client import record
from gt.wire import instructions as wire

_open: list[scope] = []
"""The process's, outermost first, since what all its threads record is one stream."""


class scope:  # noqa: N801
    """`with gt.scope("encoder"):` names what is recorded inside, for logs and placement. Results never depend on it.

    Whatever the process records meanwhile is inside, on whichever thread. Scopes may end in any order, as they do in
    generators and threads: each takes its own name out of the path.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a scope's name is a string, not {type(name).__name__}")
        self.name = name

    def __enter__(self) -> scope:
        with record.lock:
            _open.append(self)
            _say()
        return self

    def __exit__(self, *_: object) -> None:
        with record.lock:
            del _open[max(i for i, one in enumerate(_open) if one is self)]
            _say()


def _say() -> None:
    """Nothing is sent here, so that no scope begins or ends with another operation's error."""
    record.segment.append(wire.Scope("/".join(one.name for one in _open)))


def say_again() -> None:
    """To a worker or a service that has heard nothing yet."""
    if _open:
        _say()
