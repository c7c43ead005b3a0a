"""The embedded service: a dispatcher and its workers over a private socket, ending with the client."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from gt import life, waiting
from gt.errors import StartError
from gt.wire import addresses

TAIL_BYTES = 2000
LOOK_S = 0.005
STOP_TIMEOUT_S = 5.0
MAX_FOLDER_BYTES = 107 - len("/gt-12345678/socket.workers~")


class Embedded:
    """A service that this process started. Its folder, socket and processes end with this process."""

    def __init__(self, folder: Path, process: life.Started, said: BinaryIO) -> None:
        self.folder = folder
        self.process = process
        self.said = said
        """The file that the service prints to. Kept open: the service removes its folder when it ends."""
        self.owner = os.getpid()
        self.address = _address(folder)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until it listens. Raises StartError with what it printed, if it ended or took too long."""
        deadline = time.monotonic() + timeout_s
        path = addresses.path(self.address)
        while not path.exists():
            if self.process.ended():
                raise StartError(f"the embedded service ended:\n{self._said()}")
            if time.monotonic() > deadline:
                raise StartError(f"the embedded service did not start within {timeout_s:g} s:\n{self._said()}")
            waiting.sleep(LOOK_S)

    def _said(self) -> str:
        self.said.seek(max(0, self.said.seek(0, os.SEEK_END) - TAIL_BYTES))
        return self.said.read().decode(errors="replace").strip() or "(it left no message)"

    def leave(self) -> None:
        """In a forked child: the service is its parent's."""
        self.said.close()
        self.process.leave()

    def stop(self) -> None:
        """End the service and remove its folder; prints what it said about a setting."""
        if self.owner != os.getpid():
            return
        self.process.stop(STOP_TIMEOUT_S)
        for line in self._said().splitlines():
            if line.startswith("gt: GT_"):  # about a setting, such as an instruction log that could not be completed
                print(line, file=sys.stderr)
        self.said.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _address(folder: Path) -> str:
    return f"{addresses.IPC}{folder}/socket"


def _place() -> str:
    """A folder in which the service may have its own. A Unix socket's path has at most 107 bytes, and TMPDIR may be long."""
    candidates = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/dev/shm")  # noqa: S108
    for folder in candidates:
        if folder and len(os.fsencode(folder)) <= MAX_FOLDER_BYTES and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise StartError(f"no place for a socket: {', '.join(filter(None, candidates))} are too long or cannot be written to")


def start(workers: int = 0) -> Embedded:
    """Start the service and return at once; `wait_ready` waits for it. `workers`: how many; 0: one per GPU, at least one."""
    folder = Path(tempfile.mkdtemp(prefix="gt-", dir=_place()))
    said = (folder / "said").open("w+b")
    try:
        count = ["--workers", str(workers)] if workers else []
        command = ["serve", "--embedded", "--address", _address(folder), *count]
        process = life.start(command, "dispatcher", said, detached=True)
    except OSError as error:
        raise StartError(f"the embedded service did not start: {sys.executable}: {error.strerror}") from None
    return Embedded(folder, process, said)
