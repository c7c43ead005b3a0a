"""What one session has on a worker, and what of it has failed."""

from __future__ import annotations

from typing import Any

import torch

from gt.wire import instructions as wire
from gt.wire.messages import Answer, Failure, Warned
from gt.worker.memory import Memory
from gt.worker.prepare import Call, Direct
from gt.worker.zeroing import Zeroing

MAX_FAILURES = 64
"""Unreported failures that a session keeps: a loop that fails each time and asks for nothing must not fill the memory."""
Reply = tuple[Answer, list[Any]]
"""An answer and its frames."""


class WorkerSession:
    """What one session has on this worker."""

    def __init__(self, number: int, device: torch.device, zeroing: Zeroing) -> None:
        self.number = number
        self.memory = Memory(device, zeroing)
        self.calls: dict[int, Call | Failure] = {}
        self.direct: dict[int, Direct] = {}
        """The calls among them that have a direct way."""
        self.failures: list[Failure] = []
        """Failures that no answer has reported yet."""
        self.warnings: list[Warned] = []
        """What PyTorch said since the last message."""
        self.failed_check: Failure | None = None
        """Of an operator that makes and writes nothing (an assert): no value depends on it, so the next answer tells."""
        self.operations = 0
        self.errors = 0

    def define(self, item: wire.Define, device: torch.device) -> None:
        self.direct.pop(item.call, None)
        try:
            self.calls[item.call] = Call(item, device, self.memory.number)
        except Exception as error:
            self.calls[item.call] = failure_of(error, item.op, 0)

    def forget(self, item: wire.Forget) -> None:
        for call in item.calls:
            self.calls.pop(call, None)
            self.direct.pop(call, None)

    def note(self, failure: Failure) -> None:
        """Count a failure, and keep it for the next `Synchronize`."""
        self.errors += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)

    def fail(self, ids: list[int], error: Exception, op: str, site: int) -> None:
        """An instruction failed: what it would have made stands for the failure from now on."""
        failure = failure_of(error, op, site)
        self.note(failure)
        self.memory.poison(ids, failure)

    def report(self, request: int, failure: Failure) -> Answer:
        """Answer with a failure; it counts as reported."""
        self.failures = [f for f in self.failures if f is not failure]
        if failure is self.failed_check:
            self.failed_check = None
        return Answer(request, failure=failure)


def failure_of(error: Exception, op: str, site: int) -> Failure:
    return Failure(type(error).__name__, str(error) or type(error).__name__, op, site)
