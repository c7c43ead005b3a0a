"""How a process of GT's own begins and ends: the embedded dispatcher, and the workers that a service starts.

It belongs to its starter alone. Signals that a terminal or a batch system sends to every process of a job do not reach it,
and no module that lies about in a user's folder is imported by it. Between the two there is a line, a pair of connected
sockets that nobody writes to but for a greeting: whoever ends, however that comes, closes his end of it, and the other
notices. docs/decisions/013-life.md.
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
"""What a terminal, Slurm or systemd sends to all processes of a job. It is for the program to say what they mean."""
HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""Where this package was imported from: a folder, or a file that zipimport reads."""
DETACH = "import os; os.fork() and os._exit(0); "
BEGIN = "import sys; sys.path.append(sys.argv.pop(1)); from gt import life; life.begin(); "
SITE = "import site; site.main(); "
RUN = "life.begin_late(); from gt.cli import main; sys.exit(main())"
"""What a process runs, in parts. The standard library alone is on its path when it begins, and this package's home."""
HANDED_ON = "--"
"""Stands before each part of what follows a process's own arguments: descriptors, and two parts of the path."""


class Started:
    """A process that this one started and that ends with it, seen from here."""

    def __init__(self, line: socket.socket, process: subprocess.Popen[bytes], detached: bool) -> None:
        self.process = process
        """The process, or, where it is detached, what started it and has ended."""
        self._line = line
        self._detached = detached

    def ended(self, within_s: float = 0.0) -> bool:
        """Whether it has ended; waits for that."""
        poll = select.poll()
        poll.register(self._line, 0)  # what it says wakes nobody; that it has hung up always does
        return bool(poll.poll(within_s * 1000))

    def stop(self, within_s: float) -> None:
        """Tell it to end and wait until it has; after `within_s` seconds it is killed."""
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
        if pid and not self.ended():  # so the number is its own still
            os.kill(pid, signal.SIGKILL)

    def _pid(self) -> int:
        if not self._detached:
            return self.process.pid
        with suppress(OSError):
            return int(self._line.recv(32, socket.MSG_DONTWAIT | socket.MSG_PEEK) or 0)
        return 0  # it has not come so far

    def leave(self) -> None:
        """In a forked child: it is the parent's."""
        self._line.close()


def start(arguments: list[str], role: str, output: BinaryIO | None = None, detached: bool = False) -> Started:
    """Start `gt` with `arguments`. Where it is `detached`, it is nobody's child: the program may wait for all of its own.

    It is the same GT, with the same libraries, as in this process. Raises OSError where Python cannot be started.
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
    """Readable when this process has ended: the line is open for as long as a child that C code forked has its copy."""
    try:
        return [os.pidfd_open(os.getpid())]
    except (AttributeError, OSError):  # a kernel before 5.3, or a Python that was built for one
        return []


def _spawn(command: list[str], role: str, output: BinaryIO | None, ends: list[int]) -> subprocess.Popen[bytes]:
    """The signals of the job are blocked from the first: what is blocked stays so, whatever the process executes."""
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
    """Python is as isolated there as it is here, and does not search the working directory."""
    given = {
        "-I": sys.flags.isolated,
        "-E": sys.flags.ignore_environment,
        "-s": sys.flags.no_user_site,
        "-B": sys.flags.dont_write_bytecode,
    }
    return ["-S", "-P", *(flag for flag, is_set in given.items() if is_set)]


def _search_path() -> tuple[list[str], list[str]]:
    """Where this process finds modules: where libraries are, and the folders of the user, which come last."""
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
"""Descriptors that can be read from once this process is to end. None in a process that a user started."""
_last: list[str] = []
"""The folders of the user, of whose program this process is a part."""


def begin() -> None:
    """What comes before `site`: who started this process, and where it finds libraries."""
    handed_on: list[list[str]] = [[]]
    for argument in sys.argv:
        handed_on.append([]) if argument == HANDED_ON else handed_on[-1].append(argument)
    sys.argv, descriptors, first, _last[:] = handed_on
    ends.extend(map(int, descriptors))
    for end in ends:
        os.set_inheritable(end, False)
    with suppress(BrokenPipeError):  # its starter has ended already, which it finds where it serves
        os.write(ends[0], str(os.getpid()).encode())
    sys.path[-1:] = [entry for entry in first if entry not in sys.path[:-1]]


def begin_late() -> None:
    """What comes after it, so that it imports nothing from there: the user's own folders."""
    sys.path.extend(entry for entry in _last if entry not in sys.path)


def end_with_starter() -> None:
    """From now on this process ends when it is to, whatever it is doing: also while it imports or computes."""
    if ends:
        threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    poll = select.poll()
    for end in ends:
        poll.register(end, select.POLLIN)
    poll.poll()
    os._exit(0)
