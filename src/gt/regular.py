"""Opening files that strangers may have put there, without waiting, as for a named pipe, or waking a device."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

KINDS: tuple[tuple[Callable[[int], bool], int, str], ...] = (
    (stat.S_ISDIR, errno.EISDIR, os.strerror(errno.EISDIR)),
    (stat.S_ISFIFO, errno.EINVAL, "a pipe, not a regular file"),
    (stat.S_ISSOCK, errno.EINVAL, "a socket, not a regular file"),
    (lambda mode: not stat.S_ISREG(mode), errno.EINVAL, "a device, not a regular file"),
)


def check(mode: int, path: str | os.PathLike[str]) -> None:
    """Raises OSError if the mode from `stat` is not that of a regular file."""
    for is_kind, number, what in KINDS:
        if is_kind(mode):
            raise OSError(number, what, os.fspath(path))


@contextmanager
def held(path: str | os.PathLike[str]) -> Iterator[str]:
    """A name for the regular file that is at `path` now, never for one that takes its place.

    `O_PATH` holds a file without opening it (man 2 open); the name opens that very file. Raises OSError, also for a file
    that may not be read.
    """
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    name = f"/proc/self/fd/{file}"
    try:
        check(os.fstat(file).st_mode, path)
        if not os.access(name, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        yield name
    finally:
        os.close(file)


@contextmanager
def held_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """A name for the folder that is at `path` now. Raises OSError."""
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}"
    finally:
        os.close(folder)


def reading(path: str | os.PathLike[str]) -> BinaryIO:
    """Open for reading a regular file, or a pipe this process was given (`<(zcat ...)`, `/dev/stdin`). Raises OSError."""
    if os.path.exists(path) and not os.path.exists(os.path.realpath(path)):
        return open(path, "rb")
    with held(path) as name:
        return open(name, "rb")


def appending(path: str | os.PathLike[str]) -> BinaryIO:
    """Open for appending a regular file, created if there is none. Raises OSError."""
    if os.path.exists(path):
        check(os.stat(path).st_mode, path)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    try:
        check(os.fstat(file).st_mode, path)
    except OSError:
        os.close(file)
        raise
    return open(file, "ab")
