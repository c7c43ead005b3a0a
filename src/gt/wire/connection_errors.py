"""What is said of a dispatcher that cannot be reached, does not answer, or is gone."""

from __future__ import annotations

from gt.errors import ConnectionLostError

WATCH_S = 0.25
"""How often one who waits for a message looks whether its peer is still there."""
MAX_UNREAD = 1 << 16
"""Messages that may wait for a peer to read them. An honest one has asked for less, and is at most stopped for hours; others
would fill a dispatcher's memory with answers."""


def unreachable(address: str, error: OSError) -> ConnectionLostError:
    why = error.strerror or error
    return ConnectionLostError(f"{address}: tried to connect: {why}. Is `gt serve --address {address}` running?")


def unanswered(address: str, timeout_s: float) -> ConnectionLostError:
    return ConnectionLostError(
        f"{address}: something listens there, but it did not answer as a GT dispatcher within {timeout_s:.2g} s"
    )


def gone(address: str) -> ConnectionLostError:
    return ConnectionLostError(f"{address}: the dispatcher is gone, and every tensor of its sessions with it")


def broken(address: str, error: OSError) -> ConnectionLostError:
    return ConnectionLostError(f"{address}: {error.strerror} in this process; every tensor of this session is lost with it")


def taken(address: str, why: str) -> ConnectionLostError:
    return ConnectionLostError(f"{address}: cannot listen there: {why}")
