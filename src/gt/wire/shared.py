"""Large frames between processes of one machine: the bytes are in shared memory, and a file descriptor is sent.

The maker of a frame writes the bytes once and then seals them: nobody can change them, or take them away from a process that
has mapped them (`memfd_create`, file seals).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import weakref
from collections.abc import Sequence
from io import FileIO
from typing import final

from gt.errors import ProtocolError

SHARE_FROM_BYTES = 1 << 20
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


@final
class Shared:
    """A frame in shared memory; `size` is in bytes, 0 until it is known."""

    __slots__ = ("_file", "size")

    def __init__(self, file: int, size: int = 0) -> None:
        self._file = FileIO(file)  # closed by its destructor in C, even if a Ctrl-C cuts `__del__` short
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __del__(self) -> None:
        self._file.close()

    def fileno(self) -> int:
        """The descriptor, which stays this object's."""
        return self._file.fileno()

    def checked(self, size: int) -> Shared:
        """Itself, as a frame of `size` bytes. Raises ProtocolError if it could change or shrink while it is read."""
        try:
            sealed = fcntl.fcntl(self._file, fcntl.F_GET_SEALS) & SEALS == SEALS
        except OSError:
            sealed = False
        if not sealed or not SHARE_FROM_BYTES <= size == os.fstat(self.fileno()).st_size:
            raise ProtocolError("a descriptor that is not a frame")
        self.size = size
        return self

    def map(self) -> memoryview:
        """The bytes. Writing to them changes them for nobody else.

        Python's own `mmap` would keep a descriptor open for as long as a program keeps what it has fetched.
        """
        rights, private = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE
        address = _libc.mmap(None, self.size, rights, private, self.fileno(), 0)
        if address == _FAILED:  # mappings (vm.max_map_count) and address space are limited
            return self._copy()
        mapped = (ctypes.c_ubyte * self.size).from_address(address)
        weakref.finalize(mapped, _libc.munmap, address, self.size).atexit = False
        return memoryview(mapped).cast("B")

    def _copy(self) -> memoryview:
        whole = memoryview(bytearray(self.size))
        done = 0
        while done < self.size:
            done += os.preadv(self.fileno(), [whole[done:]], done)
        return whole


Frame = bytes | memoryview | Shared


def share(data: memoryview) -> Frame:
    """A copy of some bytes as a frame; large ones go into shared memory if the system has any."""
    if len(data) < SHARE_FROM_BYTES:
        return bytes(data)
    try:
        made = Shared(os.memfd_create("gt", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), len(data))
        written = 0
        while written < len(data):
            written += os.write(made.fileno(), data[written:])
        fcntl.fcntl(made.fileno(), fcntl.F_ADD_SEALS, SEALS)
    except OSError:
        return bytes(data)
    return made


def inline(frame: Frame) -> bytes | memoryview:
    """A frame that must hold a message, which is never shared. Raises ProtocolError."""
    if isinstance(frame, Shared):
        raise ProtocolError("a message in shared memory")
    return frame


def mapped(frames: Sequence[Frame]) -> list[bytes | memoryview]:
    """The frames, with those in shared memory mapped so that their bytes can be read."""
    return [f.map() if type(f) is Shared else f for f in frames]
