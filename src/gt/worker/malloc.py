"""Freed memory stays with the worker for the next results, and goes back to the system when the worker is idle.

By default glibc returns every freed block of more than 32 MB to the system at once, and the end of its heap too, so that a
training step gets the same pages again and again, each by a page fault and filled with zeros.
docs/decisions/011-freed-memory.md.
"""

from __future__ import annotations

import ctypes

IDLE_S = 30.0
"""A worker that is idle for so long gives back the memory that it keeps."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
UNBOUNDED = 1 << 30
_libc = ctypes.CDLL(None)


def keep_freed() -> None:
    """From now on freed memory stays with this process. No effect where the C library is not glibc."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_MMAP_THRESHOLD, UNBOUNDED)
        _libc.mallopt(M_TRIM_THRESHOLD, UNBOUNDED)


def give_back() -> None:
    """Return every freed page to the system. No effect where the C library is not glibc."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
