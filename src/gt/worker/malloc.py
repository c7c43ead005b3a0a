"""What the worker's allocator does with freed memory: it keeps it for the next results, and gives it back when all rests.

glibc hands every freed block of more than 32 MB back to the system at once, and the end of its heap too, so that a training
step asks for the same pages again and again: each one is a fault, and is filled with zeros. docs/decisions/011-malloc.md.
"""

from __future__ import annotations

import ctypes

REST_S = 30.0
"""A worker that had nothing to do for so long gives back what it keeps."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
UNBOUNDED = 1 << 30
_libc = ctypes.CDLL(None)


def keep_freed() -> None:
    """From now on freed memory stays with this process. Without effect where the C library is not glibc."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_MMAP_THRESHOLD, UNBOUNDED)
        _libc.mallopt(M_TRIM_THRESHOLD, UNBOUNDED)


def give_back() -> None:
    """Return every freed page to the system."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
