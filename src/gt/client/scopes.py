"""Scopes: names for what is recorded inside them."""

from __future__ import annotations

from gt.client.record import record
from gt.wire import instructions as wire

_open: list[str] = []


class scope:  # noqa: N801
    """`with gt.scope("encoder"):` names what is recorded inside, for logs and placement. Results never depend on it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> scope:
        _open.append(self.name)
        record(wire.Scope("/".join(_open)))
        return self

    def __exit__(self, *_: object) -> None:
        _open.pop()
        record(wire.Scope("/".join(_open)))
