"""How messages travel: by ZeroMQ over TCP, by Unix sockets between processes of one machine.

A dispatcher has two routers, one for clients and one for workers; each of their peers has one connection. The in-memory
transport of `gt.fakes` has the shape of a `Transport` too. docs/decisions/010-unix-sockets.md.
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
        """Raises ConnectionLostError once the peer is gone."""
        ...

    def wait(self, timeout_s: float | None) -> None:
        """Return when a message may have arrived or the peer may be gone, and after `timeout_s` seconds or earlier."""
        ...

    def receive(self, timeout_s: float | None) -> list[Frame] | None:
        """The next message, None after `timeout_s` seconds. Raises ConnectionLostError once the peer is gone."""
        ...

    def leave_to_parent(self) -> None:
        """In a forked child: let go of what belongs to the parent, and touch nothing of it."""
        ...

    def close(self) -> None: ...


class Router(Protocol):
    """A dispatcher's end of its conversations with many peers. It never waits for one of them."""

    @property
    def poll(self) -> zmq.Socket[bytes] | int:
        """What is readable when something has arrived: a socket of ZeroMQ's, or a file descriptor."""
        ...

    def take(self) -> list[tuple[bytes, list[Frame] | None]]:
        """Some of what has arrived, in order, each with its sender. None: the peer is gone."""
        ...

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        """Send to a peer; False where it is gone, which it is as well where it leaves more than `MAX_UNREAD` messages."""
        ...

    def drop(self, peer: bytes) -> None:
        """Have no more to do with a peer, as far as the transport can: what it still says may arrive."""
        ...

    def probe(self) -> list[bytes]:
        """Look who is still there; returns those who are gone and of whom `take` says nothing."""
        ...

    def close(self) -> None: ...


def connect(address: str, role: str, timeout_s: float) -> Transport:
    """Connect to the dispatcher of the service at `address`, as a `client` or a `worker`.

    Raises ConfigError for a bad address, ConnectionLostError within `timeout_s` seconds where nobody answers.
    """
    addresses.check(address)
    deadline = time.monotonic() + timeout_s
    target = address if role == "client" else addresses.workers(address)
    if address.startswith(addresses.IPC):
        return unix.UnixTransport(target, address, deadline)
    return tcp.TcpTransport(target, address, deadline)


def listen(address: str, notice_stopped: bool) -> Router:
    """Listen at `address`. A peer that is stopped (Ctrl-Z, a debugger) is gone after a while where `notice_stopped` says so.

    Raises ConfigError for an address that is not private, ConnectionLostError for one that is taken.
    """
    addresses.check_private(address)
    if address.startswith(addresses.IPC):
        return unix.UnixRouter(address, notice_stopped)
    return tcp.TcpRouter(address, notice_stopped)
