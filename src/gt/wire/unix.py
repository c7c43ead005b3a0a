"""Messages between processes of one machine over Unix sockets: a message wakes its receiver and nobody else.

Before its first message (`gt.wire.stream`) each side sends `GREETING`. A peer is gone when its connection is closed, as
happens when its process ends; whether it is stopped, the system says of the process at the other end.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gt import waiting
from gt.errors import ProtocolError
from gt.wire import addresses, connection_errors
from gt.wire.shared import Frame, Shared
from gt.wire.stream import Incoming, Outgoing, read

GREETING = b"gt unix1"
BACKLOG, RETRY_S = 4096, 0.01
LOST_AFTER_S = 2.0
"""A peer that stays stopped this long counts as gone. With a check each second that is reported within 5 s."""


class Stops:
    """Watches whether the process at the other end of a connection is stopped."""

    def __init__(self, sock: socket.socket) -> None:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self._stat = Path(f"/proc/{struct.unpack('3i', credentials)[0]}/stat")
        self._since: float | None = None

    def too_long(self) -> bool:
        """Whether it is stopped now, and was at every check for `LOST_AFTER_S` seconds."""
        try:
            stopped = self._stat.read_text(errors="replace").rpartition(")")[2].split()[0] in "tT"
        except (OSError, IndexError):  # it has ended, or is in a container that this process cannot see
            stopped = False
        now = time.monotonic()
        self._since = (self._since or now) if stopped else None
        return self._since is not None and now - self._since >= LOST_AFTER_S


class UnixTransport:
    """A connection to a dispatcher. Errors name `service`, the address that users know."""

    def __init__(self, address: str, service: str, deadline: float) -> None:
        self.address = service
        timeout_s = deadline - time.monotonic()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect(address, deadline, timeout_s)
            self._greet(timeout_s)
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._stops = Stops(self._socket)
        self._incoming = Incoming()
        self._arrived: deque[list[Frame]] = deque()
        self._lost = False

    def _connect(self, address: str, deadline: float, timeout_s: float) -> None:
        self._socket.settimeout(timeout_s)
        while True:
            try:
                return self._socket.connect(str(addresses.path(address)))
            except OSError as error:
                if not isinstance(error, BlockingIOError) or time.monotonic() > deadline:  # the queue of connections is full
                    raise connection_errors.unreachable(self.address, error) from None
            waiting.sleep(RETRY_S)

    def _greet(self, timeout_s: float) -> None:
        answer = b""
        with suppress(OSError):
            self._socket.sendall(GREETING)
        if waiting.readable(self._socket, timeout_s):
            with suppress(OSError):
                answer = self._socket.recv(len(GREETING), socket.MSG_WAITALL)
        if answer != GREETING:
            raise connection_errors.unanswered(self.address, timeout_s)

    def send(self, frames: Sequence[Frame]) -> None:
        """See `Transport`."""
        outgoing = Outgoing(frames)
        try:
            while not self._lost and not outgoing.send(self._socket):
                while not self._lost and not self._has_room(connection_errors.WATCH_S):
                    self._lost = self._stops.too_long()
        except ConnectionError:
            raise connection_errors.gone(self.address) from None  # what it sent before can still be received
        if self._lost:
            raise connection_errors.gone(self.address)

    def _has_room(self, timeout_s: float) -> bool:
        """Wait until more can be sent. No handler of a signal runs: a message must not be cut short."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(timeout_s * 1000))

    def wait(self, timeout_s: float | None) -> None:
        """See `Transport`."""
        if not self._lost and not self._arrived:
            left = connection_errors.WATCH_S if timeout_s is None else min(connection_errors.WATCH_S, timeout_s)
            if not waiting.readable(self._socket, left):
                self._lost = self._stops.too_long()

    def receive(self, timeout_s: float | None) -> list[Frame] | None:
        """See `Transport`."""
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while not self._arrived and not self._lost:
            try:
                data, files = read(self._socket)
            except BlockingIOError:
                if (left := deadline - time.monotonic()) <= 0:
                    return None
                self.wait(left)
            except ConnectionError:
                self._lost = True
            except OSError as error:
                self._lost = True
                raise connection_errors.broken(self.address, error) from None
            else:
                self._lost = not data
                self._arrived.extend(self._incoming.add(data, files))
        if not self._arrived:
            raise connection_errors.gone(self.address)
        return self._arrived.popleft()

    def leave_to_parent(self) -> None:
        """Close this process's descriptor; the parent's connection stays open."""
        self._socket.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Peer:
    """A connection of a router. `unsent`: what the system has not accepted yet; `waits`: it will say when it does."""

    def __init__(self, name: bytes, sock: socket.socket) -> None:
        self.name = name
        self.socket = sock
        self.stops = Stops(sock)
        self.incoming = Incoming()
        self.greeting = b""
        self.unsent: deque[Outgoing] = deque()
        self.waits = False

    def add(self, data: bytes, files: list[Shared]) -> list[list[Frame]]:
        """The messages that `data` completes. Raises ProtocolError if this is not a peer of this protocol."""
        if len(self.greeting) < len(GREETING):
            missing = len(GREETING) - len(self.greeting)
            self.greeting, data = self.greeting + data[:missing], data[missing:]
            if not GREETING.startswith(self.greeting):
                raise ProtocolError("not a greeting")
        return self.incoming.add(data, files)


class UnixRouter:
    """Listens at a path. Without `notice_stopped`, peers that are stopped are kept."""

    def __init__(self, address: str, notice_stopped: bool) -> None:
        self._path = addresses.path(address)
        self._notice_stopped = notice_stopped
        self._peers: dict[bytes, Peer] = {}
        self._by_file: dict[int, Peer] = {}
        self._opened = 0
        self._listens = True
        self._listener = self._listen(address)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self.poll = self._epoll.fileno()

    def _listen(self, address: str) -> socket.socket:
        """Take the path over from a service that is gone, but from nothing else. It appears once it can be connected to."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        beside = self._path.with_name(f"{self._path.name}~")
        try:
            if self._is_served():
                raise OSError("another service does")
            beside.unlink(missing_ok=True)
            listener.bind(str(beside))
            listener.listen(BACKLOG)
            self._inode = beside.stat().st_ino
            try:
                os.link(beside, self._path)
            finally:
                beside.unlink()
        except OSError as error:
            listener.close()
            raise connection_errors.taken(address, error.strerror or str(error)) from None
        return listener

    def _is_served(self) -> bool:
        """Whether somebody listens at the path. A socket file left behind by a service that is gone is removed."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(self._path))
            except BlockingIOError:  # its queue of connections is full
                return True
            except OSError:
                if self._path.is_socket():
                    self._path.unlink()
                return False
        return True

    def take(self) -> list[tuple[bytes, list[Frame] | None]]:
        """Messages from each peer that has sent something, up to `stream.PIECE_BYTES` read from each."""
        taken: list[tuple[bytes, list[Frame] | None]] = []
        for file, event in self._epoll.poll(0):
            peer = self._by_file.get(file)
            if peer is None:
                self._accept()
                continue
            if event & select.EPOLLOUT and not self._send_to(peer):
                taken.append((peer.name, None))
            elif event & ~select.EPOLLOUT:
                taken += self._take_from(peer)
        return taken

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # connected peers go on; the next heartbeat tries again
                self._epoll.unregister(self._listener)
                self._listens = False
            return
        sock.setblocking(False)
        self._opened += 1
        peer = Peer(b"%d" % self._opened, sock)
        self._peers[peer.name] = self._by_file[sock.fileno()] = peer
        self._epoll.register(sock, select.EPOLLIN)
        with suppress(ConnectionError):  # reading from it will find that it is gone
            sock.send(GREETING)

    def _take_from(self, peer: Peer) -> list[tuple[bytes, list[Frame] | None]]:
        taken: list[tuple[bytes, list[Frame] | None]] = []
        try:
            data, files = read(peer.socket)
            taken += [(peer.name, frames) for frames in peer.add(data, files)]
        except BlockingIOError:
            return taken
        except ProtocolError:
            taken.append((peer.name, []))  # this is not a message either
            data = b""
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            taken.append((peer.name, None))
        return taken

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        """See `Router`."""
        found = self._peers.get(peer)
        if found is None:
            return False
        found.unsent.append(Outgoing(frames))
        if len(found.unsent) > connection_errors.MAX_UNREAD:
            self._drop(found)
            return False
        return found.waits or self._send_to(found)

    def drop(self, peer: bytes) -> None:
        """Close the peer's connection."""
        if found := self._peers.get(peer):
            self._drop(found)

    def _send_to(self, peer: Peer) -> bool:
        """Send what the system accepts now, and the rest when it accepts more. False if the peer is gone."""
        try:
            while peer.unsent and peer.unsent[0].send(peer.socket):
                peer.unsent.popleft()
        except OSError:
            self._drop(peer)
            return False
        if bool(peer.unsent) is not peer.waits:
            peer.waits = not peer.waits
            self._epoll.modify(peer.socket, select.EPOLLIN | (select.EPOLLOUT if peer.waits else 0))
        return True

    def _drop(self, peer: Peer) -> None:
        del self._peers[peer.name], self._by_file[peer.socket.fileno()]
        peer.socket.close()

    def probe(self) -> list[bytes]:
        """Drop and return the peers that have been stopped for too long."""
        if not self._listens:
            self._epoll.register(self._listener, select.EPOLLIN)
            self._listens = True
        stopped = [p for p in self._peers.values() if self._notice_stopped and p.stops.too_long()]
        for peer in stopped:
            self._drop(peer)
        return [peer.name for peer in stopped]

    def close(self) -> None:
        """Close every connection and remove the socket file."""
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._listener.close()
        self._epoll.close()
        with suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
