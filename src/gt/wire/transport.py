"""The transports of messages: ZeroMQ over TCP, Unix sockets between processes of one machine.

A dispatcher has two routers, one for clients and one for workers; each of their peers has one connection. The in-memory
transport of `gt.fakes` is a `Transport` too. docs/decisions/010-unix-sockets.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import zmq

from gt.wire import addresses, tcp, unix
from gt.wire.shared import Frame


class Transport(Protocol):
    """One end of a conversation with a dispatcher."""

    def send(self, frames: Sequence[Frame]) -> None:
        """Send a message. Raises ConnectionLostError once the peer is gone."""
        ...

    def wait(self, timeout_s: float | None) -> None:
        """Return when a message may have arrived or the peer may be gone, at the latest after `timeout_s` seconds."""
        ...

    def receive(self, timeout_s: float | None) -> list[Frame] | None:
        """The next message, or None after `timeout_s` seconds. Raises ConnectionLostError once the peer is gone."""
        ...

    def leave_to_parent(self) -> None:
        """In a forked child: release the parent's connection without disturbing it."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Router(Protocol):
    """A dispatcher's end of its conversations with many peers. It never waits for one of them."""

    @property
    def poll(self) -> zmq.Socket[bytes] | int:
        """Becomes readable when something has arrived: a ZeroMQ socket or a file descriptor."""
        ...

    def take(self) -> list[tuple[bytes, list[Frame] | None]]:
        """Some of the messages that have arrived, in order, each with its sender. None: the peer is gone."""
        ...

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        """Send to a peer; False if it is gone. One that leaves more than `MAX_UNREAD` messages unread counts as gone."""
        ...

    def drop(self, peer: bytes) -> None:
        """Disconnect a peer as far as the transport can; messages from it may still arrive."""
        ...

    def probe(self) -> list[bytes]:
        """Check who is still there; returns the peers that are gone and that `take` does not report."""
        ...

    def close(self) -> None:
        """Stop listening and close every connection."""
        ...


def connect(address: str, role: str, timeout_s: float) -> Transport:
    """Connect to the dispatcher of the service at `address`, as a `client` or a `worker`.

    Raises ConfigError for a bad address, ConnectionLostError within `timeout_s` seconds if nobody answers.
    """
    addresses.check(address)
    deadline = time.monotonic() + timeout_s
    target = address if role == "client" else addresses.workers(address)
    if address.startswith(addresses.IPC):
        return unix.UnixTransport(target, address, deadline)
    return tcp.TcpTransport(target, address, deadline)


def listen(address: str, role: str) -> Router:
    """Listen for the clients or the workers of the service at `address`: those who connect as `role`.

    A worker that stays stopped (Ctrl-Z, a debugger) counts as gone. Raises ConfigError for an address that is not private,
    ConnectionLostError for one that is taken.
    """
    addresses.check_private(address)
    target, notice_stopped = (address, False) if role == "client" else (addresses.workers(address), True)
    if address.startswith(addresses.IPC):
        return unix.UnixRouter(target, notice_stopped)
    return tcp.TcpRouter(target, notice_stopped)
