"""A user's program as a child of a command: with settings of ours, its output on standard error, ended with the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from gt.errors import GTError

END_S = 5.0
"""How long a program may take to end once it was told to."""


class ScriptError(GTError):
    """The program did not do what it was run for; `status` is that of the command."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def shown(command: Sequence[str]) -> str:
    """A command as a person writes it."""
    return " ".join(command)


@contextmanager
def running(command: Sequence[str], settings: Mapping[str, str | None]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, which has ended afterwards. `settings`: of its environment; None: without it.

    What it prints goes to standard error. Raises ScriptError if it cannot be started.
    """
    environment = {k: v for k, v in (dict(os.environ) | dict(settings)).items() if v is not None}
    try:
        process = subprocess.Popen(command, env=environment, stdout=sys.stderr.fileno())
    except OSError as error:
        raise ScriptError(f"{command[0]}: {error.strerror}", 127) from None
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a program that was told to end, as by Ctrl-C; one that does not is killed."""
    if process.poll() is None:
        try:
            process.terminate()
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def status_of(process: subprocess.Popen[bytes]) -> int:
    """Its exit status, as a shell gives it."""
    code = process.wait()
    return 128 - code if code < 0 else code


def never_trained(what: str, command: Sequence[str], steps: int, done: int, status: int) -> ScriptError:
    """Why there is no result: the program failed, or made fewer steps of an optimizer than that."""
    if status:
        return ScriptError(f"{what}: the program failed, with exit status {status}: {shown(command)}", status)
    made = f"after {done} of {steps} steps" if done else "without a step of an optimizer of torch.optim on remote parameters"
    return ScriptError(f"{what}: the program ended {made}: {shown(command)}")
