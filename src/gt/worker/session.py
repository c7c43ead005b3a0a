"""A session on a worker: its memory, its prepared calls, its failures."""

from __future__ import annotations

from typing import Any

import torch

from gt.wire import instructions as wire
from gt.wire.messages import Answer, Failure, Recoverable, Warned
from gt.worker.calls.direct import Direct
from gt.worker.calls.prepared import PreparedCall
from gt.worker.calls.reuse import Upcoming
from gt.worker.failures import failure_of
from gt.worker.group import Group
from gt.worker.memory import Cause, Memory
from gt.worker.saving import Background, FileUnderWay
from gt.worker.under_way import UnderWay
from gt.worker.zeroing import Zeroing

MAX_FAILURES = 64
"""Unreported failures that a session keeps: a loop that fails each time and requests nothing must not fill the memory."""
Reply = tuple[Answer, list[Any]]
"""An answer and its frames."""


class WorkerSession:
    """The state of one session on this worker."""

    def __init__(self, number: int, device: torch.device, zeroing: Zeroing) -> None:
        self.number = number
        self.memory = Memory(device, zeroing)
        self.calls: dict[int, PreparedCall | Failure] = {}
        self.direct: dict[int, Direct] = {}
        """The direct ways of those calls that have one."""
        self.upcoming = Upcoming(self.calls, self.direct)
        self.failures: list[Failure] = []
        """Failures that no answer has reported yet."""
        self.warnings: list[Warned] = []
        """PyTorch's warnings since the last message."""
        self.failed_check: Failure | None = None
        """The failure of an operator without results (an assert): no value depends on it, so the next answer reports it."""
        self.group: Group | None = None
        """The workers of a sharded session; None if there is only this one."""
        self.under_way = UnderWay(self.memory.storages)
        self.missed_draw: Failure | None = None
        """Of a sharded session: why its generator may differ from the others', which drew where this worker failed."""
        self.saving: dict[int, FileUnderWay] = {}
        """Files that are being written, by number."""
        self.background = Background()
        self.taken = 0
        """How many messages it has taken: all workers of a session take the same."""
        self.recoverable: list[Recoverable] = []
        """What could be used again after the failures that were told since the last message."""
        self.operations = 0
        self.errors = 0

    def define(self, item: wire.Define, device: torch.device) -> None:
        """Prepare a call. Where that fails, every operation that uses it fails."""
        self.direct.pop(item.call, None)
        try:
            self.calls[item.call] = PreparedCall(item, device, self.memory.number)
        except Exception as error:
            self.calls[item.call] = failure_of(error, item.op, 0)

    def forget(self, item: wire.Forget) -> None:
        """Drop prepared calls."""
        for call in item.calls:
            self.calls.pop(call, None)
            self.direct.pop(call, None)

    def note(self, failure: Failure) -> None:
        """Count a failure, and keep it for the next `Synchronize`."""
        self.errors += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)

    def fail(self, ids: list[int], error: Exception, op: str, site: int) -> None:
        """Note that an instruction failed: the storages `ids`, which it would have made, stand for the failure now."""
        failure = failure_of(error, op, site)
        self.note(failure)
        self.memory.poison(ids, failure)

    def poison(self, ids: list[int], failure: Failure, item: wire.Op | wire.Query, has_begun: bool) -> None:
        """Let storages that an operation was to make or write stand for its failure. `has_begun`: it may have written."""
        at = None
        if self.group is not None:
            at = next((i for i, one in enumerate(self.upcoming.items) if one is item), None)
        self.memory.poison(ids, failure, None if at is None else Cause(self.taken, at, has_begun))

    def fail_query(self, item: wire.Query, failure: Failure, has_begun: bool) -> None:
        """A query has failed here: of several workers the others may have written what it writes."""
        if self.group is not None:
            self.poison([id for i, (id, _) in enumerate(item.ins) if i in item.writes], failure, item, has_begun)

    def miss_draw(self, failure: Failure) -> None:
        """A call that draws has failed here: of several workers the others may have drawn."""
        if self.group is not None:
            self.missed_draw = self.missed_draw or failure

    def report(self, request: int, failure: Failure) -> Answer:
        """The answer to a request that tells a failure, which is not reported again."""
        self.failures = [f for f in self.failures if f is not failure]
        if failure is self.failed_check:
            self.failed_check = None
        self._restore(failure)
        return Answer(request, failure=failure)

    def report_all(self, request: int, also: Failure | None = None) -> Answer:
        """The answer to a request for any failure: the first of those that no answer has told. None is reported again."""
        first = self.failures[0] if self.failures else also
        self.failures.clear()
        self.failed_check = None
        if first is not None:
            self._restore(None)
        return Answer(request, failure=first)

    def _restore(self, failure: Failure | None) -> None:
        """Let what a failed call should have written be used again: of several workers, if they have the same."""
        if self.group is None:
            self.memory.restore(failure)
        else:
            self.recoverable += self.memory.recoverable(failure)

    def close(self) -> None:
        """The session ends: leave its other workers, and files of which not all tensors were written or copied."""
        if self.group is not None:
            self.group.close()
        for one in self.saving.values():
            one.close()
        self.background.close()
