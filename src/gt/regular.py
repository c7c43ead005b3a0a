"""Files that strangers may have put there: opening one neither waits, as for a named pipe, nor wakes a device."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

KINDS: tuple[tuple[Callable[[int], bool], int, str], ...] = (
    (stat.S_ISDIR, errno.EISDIR, os.strerror(errno.EISDIR)),
    (stat.S_ISFIFO, errno.EINVAL, "a pipe, and no regular file"),
    (stat.S_ISSOCK, errno.EINVAL, "a socket, and no regular file"),
    (lambda mode: not stat.S_ISREG(mode), errno.EINVAL, "a device, and no regular file"),
)


def check(mode: int, path: str | os.PathLike[str]) -> None:
    """Raises OSError for what `stat` says is no regular file."""
    for is_kind, number, what in KINDS:
        if is_kind(mode):
            raise OSError(number, what, os.fspath(path))


@contextmanager
def held(path: str | os.PathLike[str]) -> Iterator[str]:
    """A name for the regular file that is at `path` now, and for none that takes its place.

    `O_PATH` holds a file without opening it (man 2 open); the name opens that very file. Raises OSError, also where it may
    not be read.
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
    """The same for a folder."""
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}"
    finally:
        os.close(folder)


def reading(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, or the pipe of a process that this one was given (`<(zcat ...)`, `/dev/stdin`), open for reading."""
    if os.path.exists(path) and not os.path.exists(os.path.realpath(path)):
        return open(path, "rb")
    with held(path) as name:
        return open(name, "rb")


def appending(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, new where there is none, open for appending. Raises OSError."""
    if os.path.exists(path):
        check(os.stat(path).st_mode, path)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    try:
        check(os.fstat(file).st_mode, path)
    except OSError:
        os.close(file)
        raise
    return open(file, "ab")
