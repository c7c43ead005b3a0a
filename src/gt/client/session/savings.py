"""Files that workers write in the background: what a program asks about them, and what it is told if it never asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from gt import waiting
from gt.client.session import worker_reports
from gt.errors import GTError
from gt.wire import messages

LOOK_S = 0.01
"""Seconds between two looks for the end of a file that is waited for. In between other threads may use the session."""


class Saving:
    """A file that is being written: `gt.files.save_safetensors(..., background=True)` returns it.

    `path`: where the file will be. Until then what was there stays, and if anything goes wrong it stays for good.
    """

    def __init__(self, path: Path, look: Callable[[], None] | None = None) -> None:
        self.path = path
        self._look = look
        """Takes in what the worker has said; None: the file is in its place."""
        self._error: BaseException | None = None
        self._is_told = False

    def done(self) -> bool:
        """Whether the file is in its place, on the disk. Raises what went wrong, as the call without `background` does."""
        if self._look is not None and self._error is None:
            self._look()
        if self._error is not None:
            self._is_told = True
            raise self._error
        return self._look is None

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the file is in its place. Raises as `done`, and TimeoutError after `timeout_s` seconds; the worker
        goes on writing then, as it does after a Ctrl-C."""
        deadline = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        while not self.done():
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{self.path}: it is still being written after {timeout_s:g} s")
            waiting.sleep(LOOK_S)

    def end(self, error: BaseException | None) -> None:
        """The file is in its place, or will never be."""
        self._look, self._error = (None, None) if error is None else (self._look, error)


class Savings:
    """The files of one session by their requests. `look` takes in what has arrived for the session."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._under_way: dict[int, Saving] = {}
        self._failed: list[Saving] = []
        """Those of which the program may not have been told."""

    def begin(self, request: int, path: Path) -> Saving:
        """A file is about to be asked for."""
        saving = self._under_way[request] = Saving(path, self._look)
        return saving

    def drop(self, request: int) -> None:
        """It could not be asked for, which the program is told."""
        self._under_way.pop(request, None)

    def hear(self, answer: messages.Answer, late: bool) -> None:
        """An answer has arrived. The first one to a request ends a file only where something went wrong."""
        if answer.request not in self._under_way or (not late and answer.failure is None):
            return
        saving = self._under_way.pop(answer.request)
        if answer.failure is None:
            saving.end(None)
        else:
            self._fail(saving, worker_reports.exception(answer.failure))

    def lose(self, why: str, kind: type[GTError]) -> None:
        """Nobody will say what becomes of the files under way: the session has ended, or its worker has."""
        for saving in self._under_way.values():
            self._fail(saving, kind(f"{why} before the file was known to be in its place"))
        self._under_way.clear()

    def _fail(self, saving: Saving, error: BaseException) -> None:
        saving.end(error)
        self._failed = [*(one for one in self._failed if not one._is_told), saving]

    def wait(self, timeout_s: float, path: Path | None = None) -> None:
        """Wait until the files under way have ended, or those at `path`; no longer than `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while any(path in (None, saving.path) for saving in self._under_way.values()) and time.monotonic() < deadline:
            self._look()
            waiting.sleep(LOOK_S)

    def untold(self) -> list[str]:
        """What went wrong that the program has not been told; it is told now."""
        untold = [saving for saving in self._failed if not saving._is_told]
        self._failed.clear()
        return [f"a file that was saved in the background: {saving.path}: {saving._error}" for saving in untold]
