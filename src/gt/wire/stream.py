"""Messages as the bytes of a Unix stream socket.

A message is sent as the number of its frames, their sizes in bytes (each a little-endian uint64), and the frames. For a
frame in shared memory a descriptor is sent instead of the bytes, and its size is marked with `SHARED`.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import stat
import struct
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any

from gt.errors import ProtocolError
from gt.wire.shared import Frame, Shared, mapped

PIECE_BYTES = 1 << 16
MAX_FRAMES = 1 << 20
MAX_VECTORS, MAX_FILES = 1024, 250
"""The most that one `sendmsg` accepts (IOV_MAX, SCM_MAX_FD)."""
SHARED = 1 << 63
_WORD = 8
_CLOSE_ON_EXEC, _TRUNCATED = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
_RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_FILES * array("i").itemsize)


@functools.lru_cache(maxsize=64)
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


class Outgoing:
    """A message, or the rest of one. The descriptors of its shared frames are sent with its first byte."""

    __slots__ = ("files", "frames", "pieces", "size_bytes")

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames
        self._pack(frames)

    def _pack(self, frames: Sequence[Frame]) -> None:
        self.files = [f for f in frames if type(f) is Shared]
        if len(self.files) > MAX_FILES:
            return self._pack(mapped(frames))
        sizes = [*map(len, frames)]
        if self.files:
            sizes = [size | SHARED if type(f) is Shared else size for f, size in zip(frames, sizes, strict=True)]
            frames = [f for f in frames if type(f) is not Shared]
        self.pieces: list[Any] = [_words(len(sizes) + 1).pack(len(sizes), *sizes), *frames]
        self.size_bytes = sum(map(len, self.pieces))

    def send(self, sock: socket.socket) -> bool:
        """Send as much as the system accepts now; True once all is sent. Raises ConnectionError if the peer is gone."""
        rights = [(*_RIGHTS, array("i", [f.fileno() for f in self.files]))] if self.files else ()
        try:
            sent = sock.sendmsg(self.pieces[:MAX_VECTORS], rights)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            self._pack(mapped(self.frames))  # this user has too many descriptors in flight
            return self.send(sock)
        self.size_bytes -= sent
        if self.size_bytes:
            self._leave_out(sent)
        return not self.size_bytes

    def _leave_out(self, sent: int) -> None:
        self.files = []
        for whole, piece in enumerate(self.pieces):
            if sent < len(piece):
                self.pieces = [memoryview(piece)[sent:], *self.pieces[whole + 1 :]]
                return
            sent -= len(piece)


def read(sock: socket.socket) -> tuple[bytes, list[Shared]]:
    """What has arrived, up to `PIECE_BYTES`, and the descriptors that came with it, at most those of one `sendmsg`.

    Raises OSError if this process may not open that many files, which leaves the stream broken, and ProtocolError for
    descriptors that are not files.
    """
    data, ancillary, flags, _ = sock.recvmsg(PIECE_BYTES, _ANCILLARY_BYTES, _CLOSE_ON_EXEC)
    files: list[Shared] = []
    for level, kind, content in ancillary:
        if (level, kind) == _RIGHTS:
            files += _owned(array("i", content))
    if flags & _TRUNCATED:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return data, files


def _owned(descriptors: array[int]) -> list[Shared]:
    """The descriptors, each with an owner that closes it. Raises ProtocolError if one is not a regular file."""
    if all(stat.S_ISREG(os.fstat(descriptor).st_mode) for descriptor in descriptors):
        return [*map(Shared, descriptors)]
    for descriptor in descriptors:
        os.close(descriptor)
    raise ProtocolError("a descriptor that is not a frame")


class Incoming:
    """Assembles messages from the bytes of a connection, in whatever pieces they arrive."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._needed = 0
        """Bytes needed to complete what has begun: first a head, then a message."""
        self._files: deque[Shared] = deque()

    def add(self, data: bytes, files: list[Shared]) -> list[list[Frame]]:
        """The messages that `data` completes. Raises ProtocolError for bytes that cannot be part of one."""
        if files:
            self._files += files
            if len(self._files) > MAX_FILES:
                raise ProtocolError("descriptors without frames")
        if self._begun:
            self._begun += data
            if len(self._begun) < self._needed:
                return []
            view, self._begun = memoryview(self._begun), bytearray()
        else:
            view = memoryview(data)
        found: list[list[Frame]] = []
        start, arrived = 0, len(view)
        while start < arrived:
            begin, sizes = _head(view, start)
            end = begin + sum(sizes)
            if end >= SHARED:
                end = begin + sum(size for size in sizes if size < SHARED)
            if end > arrived:
                self._begun, self._needed = bytearray(view[start:]), end - start
                break
            found.append(self._frames(view, begin, sizes))
            start = end
        return found

    def _frames(self, view: memoryview, begin: int, sizes: tuple[int, ...]) -> list[Frame]:
        frames: list[Frame] = []
        for size in sizes:
            if size < SHARED:
                frames.append(view[begin : begin + size])
                begin += size
            elif self._files:
                frames.append(self._files.popleft().checked(size - SHARED))
            else:
                raise ProtocolError("a frame without its descriptor")
        return frames


def _head(view: memoryview, start: int) -> tuple[int, tuple[int, ...]]:
    """The end of the head of the message at `start`, and the sizes of its frames if the whole head has arrived."""
    begin = start + _WORD
    if len(view) < begin:
        return begin, ()
    (count,) = _words(1).unpack_from(view, start)
    if count > MAX_FRAMES:
        raise ProtocolError(f"a message of {count} frames")
    end = begin + _WORD * count
    return end, _words(count).unpack_from(view, begin) if len(view) >= end else ()
