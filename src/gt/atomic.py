"""A file that appears under its name when it is whole and on the disk, and not before.

It is written beside its place, as `NAME.PID-NUMBER.partial`, and renamed. Its writer holds a lock (flock) on it, which ends
with the writer's process: so whoever writes `NAME` next can tell what a killed process left there, and removes it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from contextlib import suppress
from pathlib import Path

_numbers = itertools.count(1).__next__


class AtomicFile:
    """`finish` puts the file at `target`; `close` without it leaves what was there. Raises OSError, as its methods do.

    `file` is what it is written to.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        _remove_leftovers(target)
        self._partial, descriptor = _create(target)
        self.file = os.fdopen(descriptor, "wb")

    def finish(self) -> None:
        """All is written: make sure that it is on the disk, and put it in its place."""
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self._partial, self._target)
        with suppress(OSError):  # a file system whose folders cannot be synchronised, or a folder that may not be read
            _synchronise(self._target.parent)

    def close(self) -> None:
        """Remove what was written, unless it is finished."""
        self._partial.unlink(missing_ok=True)
        with suppress(OSError):  # what is left to be written has no room; whoever wrote it was told
            self.file.close()


def _create(target: Path) -> tuple[Path, int]:
    """A new file beside `target`, locked: its path and descriptor."""
    while True:
        partial = target.with_name(f"{target.name}.{os.getpid()}-{_numbers()}.partial")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:  # of a process with this number on another machine
            continue
        with suppress(OSError):  # a file system without locks: nothing is taken for left behind there
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return partial, descriptor
        os.close(descriptor)  # taken for left behind before it was locked


def _remove_leftovers(target: Path) -> None:
    """Remove the unfinished files of processes that have ended."""
    is_partial = re.compile(re.escape(target.name) + r"\.[0-9]+-[0-9]+\.partial").fullmatch
    with suppress(OSError):  # a folder that may be written to and not be read
        for name in filter(is_partial, os.listdir(target.parent)):
            _remove_if_left(target.with_name(name))


def _remove_if_left(partial: Path) -> None:
    with suppress(OSError):  # somebody is writing it, or has finished it, or somebody else has removed it
        descriptor = os.open(partial, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()
        finally:
            os.close(descriptor)


def _synchronise(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
