"""Messages between processes of one machine, by Unix sockets: a message wakes its receiver and nobody else.

A message travels as the number of its frames, their lengths in bytes (each a little-endian uint64), and the frames. Before
the first message each side sends `GREETING`. Who is gone is noticed by the closed connection, which the end of a process
closes; who is stopped, by what the system says of the process at the other end.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from gt.errors import ProtocolError
from gt.wire import addresses, lost
from gt.wire.codec import Frame

GREETING = b"gt unix1"
PIECE_BYTES = 1 << 16
MAX_FRAMES = 1 << 20
MAX_VECTORS = 1024
"""What one `sendmsg` takes (IOV_MAX)."""
LOST_AFTER_S = 2.0
"""A peer that is stopped for so long is gone. Noticed and told within 5 s, with a look each second."""
_WORD = 8


def _head(frames: Sequence[Frame]) -> bytes:
    return struct.pack(f"<{len(frames) + 1}Q", len(frames), *map(len, frames))


def _send(sock: socket.socket, pieces: Sequence[Frame]) -> list[Frame]:
    """Send what the system takes now; returns the rest. Raises ConnectionError where the peer is gone."""
    try:
        sent = sock.sendmsg(pieces[:MAX_VECTORS])
    except BlockingIOError:
        return list(pieces)
    for whole, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[whole + 1 :]]
        sent -= len(piece)
    return []


class Messages:
    """Puts messages together from the bytes of a connection, in whatever pieces they come."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._needed = 0
        """So many bytes make the next step, a head or a message, whole."""

    def take(self, data: bytes) -> Iterator[list[memoryview]]:
        """The messages that are whole with `data`. Raises ProtocolError for what no message begins with."""
        if self._begun:
            self._begun += data
            if len(self._begun) < self._needed:
                return
            view, self._begun = memoryview(self._begun), bytearray()
        else:
            view = memoryview(data)
        while len(view):
            ends = self._ends(view)
            if len(view) < ends[-1]:
                self._begun, self._needed = bytearray(view), ends[-1]
                return
            yield [view[begin:end] for begin, end in pairwise(ends)]
            view = view[ends[-1] :]

    @staticmethod
    def _ends(view: memoryview) -> list[int]:
        """Where the head of the next message ends and where each of its frames, as far as can be told yet."""
        if len(view) < _WORD:
            return [_WORD]
        count = int.from_bytes(view[:_WORD], "little")
        if count > MAX_FRAMES:
            raise ProtocolError(f"a message of {count} frames")
        head = _WORD * (count + 1)
        if len(view) < head:
            return [head]
        return list(accumulate(struct.unpack(f"<{count}Q", view[_WORD:head]), initial=head))


class Stops:
    """Tells how long the process at the other end of a connection has been stopped."""

    def __init__(self, sock: socket.socket) -> None:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self._stat = Path(f"/proc/{struct.unpack('3i', credentials)[0]}/stat")
        self._since: float | None = None

    def too_long(self) -> bool:
        """Whether it is stopped now, and was at every look for `LOST_AFTER_S` seconds."""
        try:
            stopped = self._stat.read_text(errors="replace").rpartition(")")[2].split()[0] == "T"
        except (OSError, IndexError):  # it has ended, or is of a container that this process does not see
            stopped = False
        now = time.monotonic()
        self._since = (self._since or now) if stopped else None
        return self._since is not None and now - self._since >= LOST_AFTER_S


class UnixTransport:
    """A connection to a dispatcher."""

    def __init__(self, address: str, service: str, deadline: float) -> None:
        self.address = address
        timeout_s = deadline - time.monotonic()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout_s)
            try:
                self._socket.connect(str(addresses.path(address)))
            except OSError as error:
                raise lost.unreachable(address, service, timeout_s, error) from None
            self._greet(timeout_s)
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._stops = Stops(self._socket)
        self._messages = Messages()
        self._arrived: deque[list[memoryview]] = deque()
        self._lost = False
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self._socket, select.POLLIN)
        self._writable.register(self._socket, select.POLLOUT)

    def _greet(self, timeout_s: float) -> None:
        try:
            self._socket.sendall(GREETING)
            answer = self._socket.recv(len(GREETING), socket.MSG_WAITALL)
        except OSError:
            answer = b""
        if answer != GREETING:
            raise lost.unanswered(self.address, timeout_s)

    def send(self, frames: Sequence[Frame]) -> None:
        pieces: list[Frame] = [_head(frames), *frames]
        while pieces and not self._lost:
            try:
                pieces = _send(self._socket, pieces)
            except ConnectionError:
                self._lost = True
            while pieces and not self._lost and not self._writable.poll(lost.WATCH_S * 1000):
                self._lost = self._stops.too_long()
        if self._lost:
            raise lost.gone(self.address)

    def wait(self, timeout_s: float | None) -> None:
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while not self._lost and not self._arrived and (left := deadline - time.monotonic()) > 0:
            if self._readable.poll(min(lost.WATCH_S, left) * 1000):
                return
            self._lost = self._stops.too_long()

    def receive(self, timeout_s: float | None) -> list[memoryview] | None:
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while not self._arrived and not self._lost:
            try:
                data = self._socket.recv(PIECE_BYTES)
            except BlockingIOError:
                if (left := deadline - time.monotonic()) <= 0:
                    return None
                self.wait(left)
            except ConnectionError:
                self._lost = True
            else:
                self._lost = not data
                self._arrived.extend(self._messages.take(data))
        if not self._arrived:
            raise lost.gone(self.address)
        return self._arrived.popleft()

    def leave_to_parent(self) -> None:
        self._socket.close()

    def close(self) -> None:
        self._socket.close()


class Peer:
    """One connection of a router. `unsent` is what its system would not take yet."""

    def __init__(self, name: bytes, sock: socket.socket) -> None:
        self.name = name
        self.socket = sock
        self.stops = Stops(sock)
        self.messages = Messages()
        self.greeting = b""
        self.unsent: list[Frame] = []

    def take(self, data: bytes) -> Iterator[list[memoryview]]:
        """Raises ProtocolError for what is no peer of this protocol."""
        if len(self.greeting) < len(GREETING):
            missing = len(GREETING) - len(self.greeting)
            self.greeting, data = self.greeting + data[:missing], data[missing:]
            if not GREETING.startswith(self.greeting):
                raise ProtocolError("no greeting")
        return self.messages.take(data)


class UnixRouter:
    """Listens at a path. Without `notice_stopped` a peer that is stopped stays."""

    def __init__(self, address: str, notice_stopped: bool) -> None:
        self._path = addresses.path(address)
        self._notice_stopped = notice_stopped
        self._peers: dict[bytes, Peer] = {}
        self._by_file: dict[int, Peer] = {}
        self._opened = 0
        self._listener = self._listen(address)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self.poll = self._epoll.fileno()

    def _listen(self, address: str) -> socket.socket:
        """Take the path over from a service that is gone, not from one that is there. It appears when it can be used."""
        if self._is_served():
            raise lost.taken(address, "another service does")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        beside = self._path.with_name(self._path.name + "~")
        try:
            beside.unlink(missing_ok=True)
            listener.bind(str(beside))
            listener.listen()
            beside.rename(self._path)
        except OSError as error:
            listener.close()
            raise lost.taken(address, error.strerror or str(error)) from None
        return listener

    def _is_served(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._path))
            except OSError:
                return False
        return True

    def take(self) -> list[tuple[bytes, list[memoryview] | None]]:
        """What each peer that has sent something has sent, up to `PIECE_BYTES` of it."""
        taken: list[tuple[bytes, list[memoryview] | None]] = []
        for file, event in self._epoll.poll(0):
            peer = self._by_file.get(file)
            if peer is None:
                self._accept()
                continue
            if event & select.EPOLLOUT and not self._send_rest(peer):
                taken.append((peer.name, None))
            elif event & ~select.EPOLLOUT:
                taken += self._take_from(peer)
        return taken

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # who was there has left, or there are too many: those who are here go on
            return
        sock.setblocking(False)
        self._opened += 1
        peer = Peer(b"%d" % self._opened, sock)
        self._peers[peer.name] = self._by_file[sock.fileno()] = peer
        self._epoll.register(sock, select.EPOLLIN)
        self._put(peer, [GREETING])

    def _take_from(self, peer: Peer) -> Iterator[tuple[bytes, list[memoryview] | None]]:
        try:
            data = peer.socket.recv(PIECE_BYTES)
            for message in peer.take(data):
                yield peer.name, message
        except BlockingIOError:
            return
        except ProtocolError:
            yield peer.name, []  # which is no message either
            data = b""
        except ConnectionError:
            data = b""
        if not data:
            self._drop(peer)
            yield peer.name, None

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        found = self._peers.get(peer)
        return found is not None and self._put(found, [_head(frames), *frames])

    def _put(self, peer: Peer, pieces: Sequence[Frame]) -> bool:
        """Send, or keep what cannot be sent yet. False where the peer is gone."""
        if peer.unsent:
            peer.unsent += pieces
            return True
        try:
            peer.unsent = _send(peer.socket, pieces)
        except ConnectionError:
            self._drop(peer)
            return False
        if peer.unsent:
            self._epoll.modify(peer.socket, select.EPOLLIN | select.EPOLLOUT)
        return True

    def _send_rest(self, peer: Peer) -> bool:
        unsent, peer.unsent = peer.unsent, []
        self._epoll.modify(peer.socket, select.EPOLLIN)
        return self._put(peer, unsent)

    def _drop(self, peer: Peer) -> None:
        del self._peers[peer.name], self._by_file[peer.socket.fileno()]
        peer.socket.close()

    def probe(self) -> list[bytes]:
        stopped = [p for p in self._peers.values() if self._notice_stopped and p.stops.too_long()]
        for peer in stopped:
            self._drop(peer)
        return [peer.name for peer in stopped]

    def close(self) -> None:
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._listener.close()
        self._epoll.close()
        self._path.unlink(missing_ok=True)
