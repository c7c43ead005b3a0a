"""Messages over TCP, with ZeroMQ: a dispatcher has ROUTERs, each peer a DEALER.

libzmq's own threads notice who is gone (a closed connection, or no heartbeat of theirs for `LOST_AFTER_MS`), so a peer whose
Python is busy is not taken for lost.
"""

from __future__ import annotations

import math
import socket
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import chain, repeat

import zmq
from zmq.utils.monitor import recv_monitor_message

from gt.waiting import interruptible
from gt.wire import addresses, codec, connection_errors, messages
from gt.wire.shared import Frame, mapped

HEARTBEAT_MS = 500
LOST_AFTER_MS = 2500
"""A stopped peer is noticed within 3 s and reported by the next probe; 5 s in all are allowed."""
COPY_BELOW_BYTES = 1 << 16
NEVER_MS = 2**31 - 1
"""A DEALER reconnects after so long, which means never. -1 means that too, but with it libzmq 4.3.5 discards the messages
that had arrived before the connection was closed and had not been read."""

_NOW = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_send_frame = zmq.backend.Socket.send


def _options(sock: zmq.Socket[bytes], heartbeat: bool = True) -> None:
    sock.setsockopt(zmq.SNDHWM, 0)
    sock.setsockopt(zmq.RCVHWM, 0)
    sock.setsockopt(zmq.LINGER, 1000)
    sock.copy_threshold = COPY_BELOW_BYTES
    if heartbeat:
        sock.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, LOST_AFTER_MS)


def _send(sock: zmq.Socket[bytes], frames: Sequence[Frame]) -> None:
    """Send without waiting: there is no high-water mark, so zmq.Again means that there is no peer.

    `map` and `deque` send all frames without a Python loop, in half its time.
    """
    flags = chain(repeat(_MORE, len(frames) - 1), (_NOW,))
    deque(map(partial(_send_frame, sock), mapped(frames), flags, repeat(False)), maxlen=0)


def _receive(sock: zmq.Socket[bytes]) -> list[memoryview]:
    """The frames of the next message that has arrived. Raises zmq.Again if there is none."""
    frame = sock.recv(_NOW, False)
    frames = [frame.buffer]
    while frame.more:
        frame = sock.recv(_NOW, False)
        frames.append(frame.buffer)
    return frames


class TcpTransport:
    """A DEALER that knows when its one peer is gone. Errors name `service`, the address that users know."""

    def __init__(self, address: str, service: str, deadline: float) -> None:
        self.address = service
        _reach(address, service, deadline - time.monotonic())
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        _options(self._socket)
        self._socket.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
        events = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CLOSED
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(events | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        self._lost = False
        self._polled: list[tuple[zmq.Socket[bytes], int]] = [(self._socket, int(zmq.POLLIN))]
        self._socket.connect(address)
        try:
            self._shake_hands(max(0.1, deadline - time.monotonic()))
        except BaseException:
            self.close()
            raise

    @interruptible
    def _shake_hands(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0 and self._monitor.poll(math.ceil(left * 1000)):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            if event != zmq.EVENT_CLOSED:
                break
        raise connection_errors.unanswered(self.address, timeout_s)

    def send(self, frames: Sequence[Frame]) -> None:
        """See `Transport`."""
        if self._lost:
            raise connection_errors.gone(self.address)
        try:
            _send(self._socket, frames)
        except zmq.Again:
            self._lost = True
            raise connection_errors.gone(self.address) from None

    @interruptible
    def wait(self, timeout_s: float | None) -> None:
        """See `Transport`."""
        left = connection_errors.WATCH_S if timeout_s is None else min(connection_errors.WATCH_S, timeout_s)
        if not self._lost and not zmq.zmq_poll(self._polled, math.ceil(left * 1000)):
            self._watch()

    def receive(self, timeout_s: float | None) -> list[Frame] | None:
        """See `Transport`."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                return [*_receive(self._socket)]
            except zmq.Again:
                if self._lost:
                    raise connection_errors.gone(self.address) from None
            self._watch()
            if not self._lost:  # else look once more for messages that arrived before
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self.wait(left)

    def _watch(self) -> None:
        """Find out whether the connection has ended."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._lost = self._lost or event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED)

    def leave_to_parent(self) -> None:
        """Does nothing: libzmq's threads are not in this process, and without them no socket may be touched."""

    def close(self) -> None:
        """Close the connection; what was sent still goes out, if there is anybody to receive it."""
        self._socket.disable_monitor()
        self._socket.close(linger=0 if self._lost else None)


def _reach(address: str, service: str, timeout_s: float) -> None:
    """Raises ConnectionLostError with the operating system's reason if there is nothing to connect to."""
    try:
        socket.create_connection(addresses.host_and_port(address), timeout_s).close()
    except OSError as error:
        raise connection_errors.unreachable(service, error) from None
    except UnicodeError:  # the name cannot be encoded for DNS
        raise connection_errors.unreachable(service, OSError("not the name of a host")) from None


class TcpRouter:
    """A ROUTER that distinguishes a peer that is gone from a slow one.

    Without `notice_stopped` a peer is gone only when its connection is closed, as happens when its process ends.
    """

    def __init__(self, address: str, notice_stopped: bool) -> None:
        self.poll: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._peers: set[bytes] = set()
        _options(self.poll, notice_stopped)
        self.poll.setsockopt(zmq.SNDHWM, connection_errors.MAX_UNREAD)
        self.poll.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            self.poll.bind(address)
        except zmq.ZMQError as error:
            self.poll.close()
            raise connection_errors.taken(address, zmq.strerror(error.errno or 0)) from None

    def take(self) -> list[tuple[bytes, list[Frame] | None]]:
        """The next message, if any."""
        try:
            sender, *frames = _receive(self.poll)
        except zmq.Again:
            return []
        peer = bytes(sender)
        self._peers.add(peer)
        return [(peer, list(frames))]

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        """See `Router`."""
        try:
            _send(self.poll, [peer, *frames])
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.ENOTCONN, zmq.EAGAIN):
                raise
            self.drop(peer)
            return False
        return True

    def drop(self, peer: bytes) -> None:
        """Forget the peer; a ROUTER cannot close a single connection."""
        self._peers.discard(peer)

    def probe(self) -> list[bytes]:
        """Find peers that are gone: sending to them fails."""
        ping = [codec.encode(messages.Ping())]
        return [peer for peer in sorted(self._peers) if not self.send(peer, ping)]

    def close(self) -> None:
        """Close every connection."""
        self.poll.close()
