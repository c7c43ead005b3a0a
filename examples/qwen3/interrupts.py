"""Ctrl-C and SIGTERM during training: the first asks for a checkpoint and an end, the second ends at once."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType

from problems import outlive_shell

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which the first such signal is noted, and the next has its usual effect. `wanted`: its number, or 0.

    A SIGTERM to all processes of a job is one, although the end of train.sh sends another one (problems.py).
    """

    def __init__(self) -> None:
        self.wanted = 0
        self._usual: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        for number in NUMBERS:
            if signal.getsignal(number) != signal.SIG_IGN:  # a shell has jobs in the background ignore SIGINT
                self._usual[number] = signal.signal(number, self._note)
        return self

    def stop_if_wanted(self, said: str) -> None:
        """Print a line and raise SystemExit, if there was such a signal."""
        if self.wanted:
            print(said, flush=True)
            raise SystemExit(128 + self.wanted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            return
        self.wanted = number
        outlive_shell()
        self._restore()
        again = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        print(f"stopping after this step, with a checkpoint ({again} again: at once)", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, usual in self._usual.items():
            signal.signal(number, usual)
        self._usual.clear()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
