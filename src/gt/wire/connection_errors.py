"""Errors about a dispatcher that cannot be reached, does not answer, or is gone; every transport words them alike."""

from __future__ import annotations

from gt.errors import ConnectionLostError

WATCH_S = 0.25
"""How often a peer that waits for a message checks that the other side is still there, in seconds."""
MAX_UNREAD = 1 << 16
"""Messages that may wait for a peer to read them. An honest peer has asked for fewer, even if it is stopped for hours; a
hostile one would fill the dispatcher's memory with answers."""


def unreachable(address: str, error: OSError) -> ConnectionLostError:
    """Nothing accepts connections at the address."""
    why = error.strerror or error
    return ConnectionLostError(f"{address}: tried to connect: {why}. Is `gt serve --address {address}` running?")


def unanswered(address: str, timeout_s: float) -> ConnectionLostError:
    """Something accepts connections there, but not as a dispatcher does."""
    return ConnectionLostError(
        f"{address}: something listens there, but it did not answer as a GT dispatcher within {timeout_s:.2g} s"
    )


def gone(address: str) -> ConnectionLostError:
    """The connection was closed by the other side."""
    return ConnectionLostError(f"{address}: the dispatcher is gone, and every tensor of its sessions with it")


def broken(address: str, error: OSError) -> ConnectionLostError:
    """This process can no longer use the connection."""
    return ConnectionLostError(f"{address}: {error.strerror} in this process; every tensor of this session is lost with it")


def taken(address: str, why: str) -> ConnectionLostError:
    """A dispatcher cannot listen at the address."""
    return ConnectionLostError(f"{address}: cannot listen there: {why}")
