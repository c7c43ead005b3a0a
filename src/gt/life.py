"""The start and end of GT's own processes: the embedded dispatcher, and the workers that a service starts.

Such a process belongs to its starter alone. Signals that a terminal or a batch system sends to every process of a job do not
reach it, and it imports no stray module from a user's folder. The two are connected by a line, a pair of sockets that nobody
writes to but for a greeting: when either process ends, for whatever reason, its end is closed, and the other notices.
docs/decisions/013-life.md.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

OF_THE_JOB = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGXCPU,
    }
)
"""Signals that a terminal, Slurm or systemd sends to all processes of a job. Only the program decides what they mean."""
HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""Where this package was imported from: a folder, or a file for zipimport."""
DETACH = "import os; os.fork() and os._exit(0); "
BEGIN = "import sys; sys.path.append(sys.argv.pop(1)); from gt import life; life.begin(); "
SITE = "import site; site.main(); "
RUN = "life.begin_late(); from gt.cli import main; sys.exit(main())"
"""The program of a process, in parts. At first its path has only the standard library and this package's home."""
HANDED_ON = "--"
"""Precedes each list that follows a process's own arguments: descriptors, and two parts of the path."""


class Started:
    """A process that this one started and that ends with it, as seen by its starter."""

    def __init__(self, line: socket.socket, process: subprocess.Popen[bytes], detached: bool) -> None:
        self.process = process
        """The process itself; if it is detached, the one that forked it and has ended."""
        self._line = line
        self._detached = detached

    def ended(self, within_s: float = 0.0) -> bool:
        """Whether it has ended; waits up to `within_s` seconds for that."""
        poll = select.poll()
        poll.register(self._line, 0)  # its greeting wakes nobody; hanging up always does
        return bool(poll.poll(within_s * 1000))

    def stop(self, within_s: float) -> None:
        """Tell it to end and wait for that; after `within_s` seconds it is killed."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)
        if not self.ended(within_s):
            self.kill()
            self.ended(within_s)
        self._line.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(within_s)

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        pid = self._pid()
        if pid and not self.ended():  # so the number is still its own
            os.kill(pid, signal.SIGKILL)

    def _pid(self) -> int:
        if not self._detached:
            return self.process.pid
        with suppress(OSError):
            return int(self._line.recv(32, socket.MSG_DONTWAIT | socket.MSG_PEEK) or 0)
        return 0  # it has not greeted yet

    def leave(self) -> None:
        """In a forked child: the process is the parent's."""
        self._line.close()


def start(arguments: list[str], role: str, output: BinaryIO | None = None, detached: bool = False) -> Started:
    """Start `gt` with `arguments`. If `detached`, it is nobody's child, so the program may wait for all of its own.

    It runs the same GT with the same libraries as this process. Raises OSError if Python cannot be started.
    """
    ours, theirs = socket.socketpair()
    ends = [os.dup(theirs.fileno()), *_own_pidfd()]
    theirs.close()
    first, last = _search_path()
    text = (DETACH if detached else "") + BEGIN + (SITE if "site" in sys.modules else "") + RUN
    handed_on = [HANDED_ON, *map(str, ends), HANDED_ON, *first, HANDED_ON, *last]
    try:
        process = _spawn([sys.executable, *_flags(), "-c", text, HOME, *arguments, *handed_on], role, output, ends)
    except BaseException:
        ours.close()
        raise
    finally:
        for end in ends:
            os.close(end)
    if detached:
        process.wait()
    return Started(ours, process, detached)


def _own_pidfd() -> list[int]:
    """Readable when this process has ended, whereas the line stays open while a child forked by C code has a copy of it."""
    try:
        return [os.pidfd_open(os.getpid())]
    except (AttributeError, OSError):  # a kernel before 5.3, or a Python built for one
        return []


def _spawn(command: list[str], role: str, output: BinaryIO | None, ends: list[int]) -> subprocess.Popen[bytes]:
    """Start with the job's signals blocked: they stay blocked across exec."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"GT_ROLE": role}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_JOB)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            pass_fds=ends,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _flags() -> list[str]:
    """Flags that make Python as isolated there as here, and keep it from searching the working directory."""
    given = {
        "-I": sys.flags.isolated,
        "-E": sys.flags.ignore_environment,
        "-s": sys.flags.no_user_site,
        "-B": sys.flags.dont_write_bytecode,
    }
    return ["-S", "-P", *(flag for flag, is_set in given.items() if is_set)]


def _search_path() -> tuple[list[str], list[str]]:
    """This process's search path in two parts: libraries, and the user's own folders, which come last."""
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    users = {_resolved(folder) for folder in ("", os.path.dirname(script), *_last)}
    entries = [entry for entry in sys.path if isinstance(entry, str)]
    first = [os.path.abspath(entry) for entry in entries if _resolved(entry) not in users]
    last = [os.path.abspath(entry) for entry in entries if _resolved(entry) in users - {None}]
    return first, last


def _resolved(entry: str) -> str | None:
    try:
        return os.path.realpath(entry)
    except OSError:  # the working directory was deleted
        return None


# -- in the process that was started -------------------------------------------------------------------------------------

ends: list[int] = []
"""Descriptors that become readable when this process has to end. Empty in a process that a user started."""
_last: list[str] = []
"""The folders of the user whose program this process belongs to."""


def begin() -> None:
    """Before `site` is imported: take over the line to the starter and the path to libraries."""
    handed_on: list[list[str]] = [[]]
    for argument in sys.argv:
        handed_on.append([]) if argument == HANDED_ON else handed_on[-1].append(argument)
    sys.argv, descriptors, first, _last[:] = handed_on
    ends.extend(map(int, descriptors))
    for end in ends:
        os.set_inheritable(end, False)
    with suppress(BrokenPipeError):  # its starter has ended already; it will notice when it serves
        os.write(ends[0], str(os.getpid()).encode())
    sys.path[-1:] = [entry for entry in first if entry not in sys.path[:-1]]


def begin_late() -> None:
    """After `site`, so that it imports nothing from there: add the user's own folders to the path."""
    sys.path.extend(entry for entry in _last if entry not in sys.path)


def end_with_starter() -> None:
    """From now on this process ends with its starter whatever it is doing, even importing or computing."""
    if ends:
        threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    poll = select.poll()
    for end in ends:
        poll.register(end, select.POLLIN)
    poll.poll()
    os._exit(0)
