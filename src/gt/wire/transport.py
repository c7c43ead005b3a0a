"""How frames travel: ZeroMQ between processes. The in-memory transport of `gt.fakes` has the same shape.

A dispatcher has two ROUTER sockets, one for clients and one for workers; their peers have a DEALER each. Who is gone is
noticed by libzmq itself (a closed connection, or no heartbeat of its own for `LOST_AFTER_MS`), never by how busy a
peer's Python is.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import recv_monitor_message

from gt.errors import ConfigError, ConnectionLostError

Frame = bytes | memoryview
HEARTBEAT_MS = 1000
LOST_AFTER_MS = 3000
WATCH_MS = 250
"""How often one who waits for a message looks whether its peer is still there."""
COPY_BELOW_BYTES = 1 << 16
LOOPBACK = ("127.", "localhost", "::1", "[::1]")


class Transport(Protocol):
    """One end of a conversation with a dispatcher."""

    def send(self, frames: Sequence[Frame]) -> None: ...

    def receive(self, timeout_s: float | None) -> list[memoryview] | None:
        """The next message, None after `timeout_s` seconds. Raises ConnectionLostError once the peer is gone."""
        ...

    def close(self) -> None: ...


def workers_address(address: str) -> str:
    """Where the workers of a service connect: the next port, or the socket file beside the clients'."""
    if address.startswith("ipc://"):
        return address + ".workers"
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 1}"


def check_address(address: str) -> None:
    """Raises ConfigError for an address that is not `tcp://HOST:PORT` or `ipc://PATH`."""
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return
    parts = urlsplit(address)
    try:
        valid = parts.scheme == "tcp" and bool(parts.hostname) and parts.port is not None
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{address!r} is no address: write tcp://HOST:PORT or ipc://PATH")


def _options(sock: zmq.Socket[bytes]) -> None:
    sock.setsockopt(zmq.SNDHWM, 0)
    sock.setsockopt(zmq.RCVHWM, 0)
    sock.setsockopt(zmq.LINGER, 1000)
    sock.copy_threshold = COPY_BELOW_BYTES
    sock.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, LOST_AFTER_MS)


_LAST = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_send_frame = zmq.backend.Socket.send


def send(sock: zmq.Socket[bytes], frames: Sequence[Frame]) -> None:
    """Send without waiting: there is no high-water mark, so zmq.Again means that there is no peer.

    One call of C for all frames, so that no signal handler can raise between two of them and leave half a message behind.
    """
    flags = chain(repeat(_MORE, len(frames) - 1), (_LAST,))
    deque(map(partial(_send_frame, sock), frames, flags, repeat(False)), maxlen=0)


def receive(sock: zmq.Socket[bytes], flags: int = 0) -> list[memoryview]:
    """The frames of the next message. Raises zmq.Again where there is none (in time)."""
    frame = sock.recv(flags, False)
    frames = [frame.buffer]
    while frame.more:
        frame = sock.recv(flags, False)
        frames.append(frame.buffer)
    return frames


class ZmqTransport:
    """A DEALER that knows when its one peer is gone."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self.address = address
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        _options(self._socket)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self._socket.setsockopt(zmq.RCVTIMEO, WATCH_MS)
        events = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CLOSED
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(events | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        self._lost = False
        self._torn = False
        """A message is being received: an exception raised in between (Ctrl-C) leaves the rest of its frames behind."""
        self._socket.connect(address)
        self._shake_hands(timeout_s)

    def _shake_hands(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0 and self._monitor.poll(math.ceil(left * 1000)):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            if event != zmq.EVENT_CLOSED:
                break
        self.close()
        raise ConnectionLostError(
            f"{self.address}: something listens there, but it did not answer as a GT dispatcher within {timeout_s:g} s"
        )

    def send(self, frames: Sequence[Frame]) -> None:
        if self._lost:
            raise self._gone()
        try:
            send(self._socket, frames)
        except zmq.Again:
            self._lost = True
            raise self._gone() from None

    def receive(self, timeout_s: float | None) -> list[memoryview] | None:
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                if timeout_s is None:
                    return self._take(0)  # waits for WATCH_MS, with less ado than a poll
                left_ms = min(WATCH_MS, math.ceil(max(0.0, deadline - time.monotonic()) * 1000))
                if self._socket.poll(left_ms):
                    return self._take(zmq.NOBLOCK)
            except zmq.Again:
                pass
            self._watch()
            if self._lost:
                raise self._gone()
            if time.monotonic() >= deadline:
                return None

    def _take(self, flags: int) -> list[memoryview]:
        while self._torn and self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv()
        self._torn = True
        frames = receive(self._socket, flags)
        self._torn = False
        return frames

    def _watch(self) -> None:
        """Hear of the connection's end. What arrived before it has been received by then."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._lost = self._lost or event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED)

    def _gone(self) -> ConnectionLostError:
        return ConnectionLostError(f"{self.address}: the dispatcher is gone; every tensor of this session went with it")

    def close(self) -> None:
        self._socket.disable_monitor()
        self._socket.close()


def connect(address: str, role: str, timeout_s: float) -> Transport:
    """Connect to a dispatcher, as a `client` or a `worker`.

    Raises ConfigError for a bad address, ConnectionLostError within `timeout_s` seconds where nobody answers.
    """
    check_address(address)
    _reach(address, timeout_s)
    return ZmqTransport(address, timeout_s)


def _reach(address: str, timeout_s: float) -> None:
    """Fail with the operating system's reason where there is nothing to connect to."""
    try:
        if address.startswith("ipc://"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(timeout_s)
                probe.connect(address.removeprefix("ipc://"))
        else:
            parts = urlsplit(address)
            socket.create_connection((parts.hostname, parts.port), timeout_s).close()  # type: ignore[arg-type]
    except OSError as error:
        raise ConnectionLostError(
            f"{address}: tried to connect for {timeout_s:g} s: {error.strerror or error}."
            f" Is `gt serve --address {address}` running?"
        ) from None


class Router:
    """A dispatcher's end: a ROUTER that tells a peer that is gone from one that is slow."""

    def __init__(self, address: str) -> None:
        check_address(address)
        self.address = address
        self._private(address)
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        _options(self.socket)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            self.socket.close()
            raise ConnectionLostError(f"{address}: cannot listen there: {error.strerror}") from None

    @staticmethod
    def _private(address: str) -> None:
        if address.startswith("tcp://"):
            host = urlsplit(address).hostname or ""
            if not host.startswith(LOOPBACK):
                raise ConfigError(f"{address}: only loopback addresses are served (keys for others come later)")
            return
        folder = Path(address.removeprefix("ipc://")).parent
        mode = os.stat(folder).st_mode & 0o777 if folder.is_dir() else None
        if mode is None or mode & 0o077:
            raise ConfigError(f"{folder}: the folder of an ipc socket must exist and be private (mode 0700)")

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        """Send to a peer; False where it is gone."""
        try:
            send(self.socket, [peer, *frames])
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.ENOTCONN):
                return False
            raise
        return True

    def receive(self) -> tuple[bytes, list[memoryview]] | None:
        """The next message that has arrived and its sender, None where there is none."""
        try:
            peer, *frames = receive(self.socket, _LAST)
        except zmq.Again:
            return None
        return bytes(peer), frames

    def close(self) -> None:
        self.socket.close()
        if self.address.startswith("ipc://"):
            Path(self.address.removeprefix("ipc://")).unlink(missing_ok=True)
