"""Scopes: names for what is recorded inside them."""

from __future__ import annotations

from gt.client.stream.segment import recorder
from gt.wire import instructions as wire

_open: list[scope] = []
"""The open scopes of the process, outermost first: all its threads record one stream."""


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
            _open.append(self)
            _record_path()
        return self

    def __exit__(self, *_: object) -> None:
        with recorder.lock:
            del _open[max(i for i, one in enumerate(_open) if one is self)]
            _record_path()


class module_scope(scope):  # noqa: N801
    """The scope of a module at the path `name`, which begins with the paths of the modules around it."""


def _record_path() -> None:
    """Record the path of names. Sends nothing, so that no scope begins or ends with another operation's error."""
    innermost = next((one for one in reversed(_open) if type(one) is module_scope), None)
    names = (one.name for one in _open if type(one) is scope or one is innermost)
    recorder.segment.append(wire.Scope("/".join(names)))


def record_open_scopes() -> None:
    """Record the open scopes, for a worker or a service that knows none yet."""
    if _open:
        _record_path()
