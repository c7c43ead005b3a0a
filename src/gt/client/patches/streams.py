"""`torch.Stream` and `torch.Event` of the remote device.

A session has one stream: its instructions are executed in program order. Whatever stream a program makes or chooses is that
one, and what comes later waits for what was recorded before anyway.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from gt.client.patches import accelerator
from gt.client.patches.by_device import names_remote
from gt.client.session.process import process
from gt.client.session.session import Session
from gt.client.stream import devices
from gt.client.stream.devices import REMOTE
from gt.errors import RefusedError
from gt.wire import instructions as wire

KIND = int(torch._C._autograd.DeviceType.PrivateUse1.value)
"""The number of the device's type, by which C++ names it."""
OWN = "an event of the remote device belongs to its session, and to no other process"


def synchronize() -> None:
    """Wait until everything recorded so far is done. Raises the first error that has not been reported yet."""
    process.session().ask(wire.Synchronize)


class Event(torch._C.Event):
    """A point in the session's stream.

    With `enable_timing`, `record` waits until the worker has come to it: the time is that of the answer.
    """

    device = REMOTE  # type: ignore[assignment]

    def __new__(cls, device: Any = REMOTE, *, enable_timing: bool = False, **options: bool) -> Event:
        """Takes the arguments of `torch.Event`. Raises RefusedError for an event that is shared with other processes."""
        if options.pop("interprocess", False):
            raise RefusedError(OWN)
        devices.check_index(torch.device(device))
        return super().__new__(cls, "remote", enable_timing=enable_timing, **options)

    def __init__(self, device: Any = REMOTE, *, enable_timing: bool = False, **options: bool) -> None:
        self.is_timed = enable_timing
        self.time_s: float | None = None
        """When it was recorded, by this process's clock."""
        self._session: Session | None = None
        """The session that may not have executed what was recorded before the event, `_batch` at the latest."""
        self._batch = 0

    def record(self, stream: torch.Stream | None = None) -> None:
        """Put the event behind what has been recorded so far."""
        if not process.has_begun():
            self._session = None
        elif self.is_timed:
            synchronize()
            self._session = None
        else:
            self._session = process.session()
            self._batch = self._session.last_batch()
        self.time_s = time.perf_counter()

    def query(self) -> bool:
        """Whether the worker has executed what was recorded before the event."""
        if self._session is None:
            return True
        if not self._session.is_on_cpus:  # "executed" only means begun there
            self.synchronize()
        if self._session is not None and self._session.has_executed(self._batch):
            self._session = None
        return self._session is None

    def synchronize(self) -> None:
        """Wait until the worker has executed what was recorded before the event. Raises errors as `torch.remote.synchronize`
        does."""
        if self._session is not None and not self._session.closed:
            self._session.ask(wire.Synchronize)
        self._session = None

    def wait(self, stream: torch.Stream | None = None) -> None:
        """Does nothing: what comes later is executed later."""
        return None

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to another. Raises ValueError unless both have `enable_timing` and are recorded."""
        if not (self.is_timed and isinstance(end_event, Event) and end_event.is_timed):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self.time_s is None or end_event.time_s is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        return (end_event.time_s - self.time_s) * 1e3

    def ipc_handle(self) -> bytes:
        """Raises RefusedError."""
        raise RefusedError(OWN)


class Stream(torch._C.Stream):
    """The session's stream. All objects of this class are equal."""

    device = REMOTE  # type: ignore[assignment]

    def __new__(cls, device: Any = REMOTE, *args: Any, priority: int = 0, **ids: int) -> Stream:
        """Takes the arguments of `torch.Stream`, or the numbers of a stream, of which there is one."""
        if not ids and not args:
            devices.check_index(torch.device(device))
        return super().__new__(cls, stream_id=0, device_index=0, device_type=KIND)

    def query(self) -> bool:
        """Whether the worker has executed everything recorded so far."""
        return self.record_event().query()

    def synchronize(self) -> None:
        """As `torch.remote.synchronize`."""
        synchronize()

    def record_event(self, event: Any = None) -> Any:
        """Record an event, or a new one, which is returned."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Any) -> None:
        """Does nothing: what comes later is executed later."""
        return None

    def wait_stream(self, other: Any) -> None:
        """Does nothing: there is one stream."""
        return None

    def is_capturing(self) -> bool:
        """Never: there are no graphs of instructions."""
        return False

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None


def is_stream_for_remote(device: Any = None, *args: Any, device_type: int | None = None, **kwargs: Any) -> bool:
    """Whether `torch.Stream(...)`, given a device, or the numbers of a stream, is to make one of the remote device."""
    if args or device_type is not None:
        return (args[-1] if args else device_type) == KIND
    return accelerator.is_remote() if device is None else names_remote(device)


def is_event_for_remote(device: Any = None, **kwargs: Any) -> bool:
    """Whether `torch.Event(...)` is to make one of the remote device."""
    return accelerator.is_remote() if device is None else names_remote(device)
