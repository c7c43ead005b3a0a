"""The session of this process, one at a time: opened by the first flush, changed by `gt.connect`, closed with the program.

It is on `GT_ADDRESS`, on the address given to `gt.connect`, or on the embedded service that was started while `gt` was
imported.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable

import torch

from gt.client.session import shutdown
from gt.client.session.configured import configured
from gt.client.session.early_start import early
from gt.client.session.session import FORKED, Session
from gt.client.stream.definitions import definitions
from gt.client.stream.scopes import record_open_scopes
from gt.client.stream.segment import Segment, recorder
from gt.config import settings
from gt.errors import ForkError
from gt.wire import instructions as wire
from gt.wire.transport import Transport, connect

START_TIMEOUT_S = 60.0
LOG_S = 10.0
"""How long an ending program waits for its last instructions to be executed, and so to appear in the instruction log."""
ONE_OF_SEVERAL = (
    "this program has {} workers to itself and uses one of them: GT_CONFIG=FILE says how to use all of them"
    " (docs/sharding.md), GT_WORKERS=1 starts only one"
)
DRAIN_S = 1.0
"""Interval at which an idle client receives what has arrived."""


class Process:
    """This process as a client: its session, and what becomes of it at a fork and at the program's end."""

    def __init__(self) -> None:
        self.opened: Session | None = None
        self.forked = False
        """Whether this is a child that was forked after the import, which has no session."""
        self.when_closed: list[Callable[[], None]] = []
        """What is to be forgotten with a session, as its tensors are gone."""
        self._flusher: threading.Thread | None = None
        """The thread of `_flush_aged`."""
        recorder.segment.limit = settings().segment_size
        os.register_at_fork(after_in_child=self._after_fork)
        shutdown.Last(self._end)

    def has_begun(self) -> bool:
        """Whether anything was recorded for a worker."""
        return self.opened is not None or bool(recorder.segment)

    def session(self) -> Session:
        """The open session; opens one if there is none. Raises ForkError in a forked child."""
        shutdown.leave()
        if self.forked:
            raise ForkError(FORKED)
        if self.opened is None:
            with recorder.lock:
                if self.opened is None:
                    self._open_default()
        assert self.opened is not None
        return self.opened

    def _open_default(self) -> None:
        address = settings().address
        if address:
            self.join(address, first=True)
            return
        service = early.take()
        service.wait_ready(START_TIMEOUT_S)
        self.join(service.address, START_TIMEOUT_S, embedded=True, first=True)
        assert self.opened is not None
        if configured.sharding is None and (count := self.opened.welcome.all_workers) > 1:
            warnings.warn(ONE_OF_SEVERAL.format(count), stacklevel=2)

    def join(self, address: str, timeout_s: float | None = None, embedded: bool = False, first: bool = False) -> None:
        """Open a session on a running service; the session before it, if any, is closed.

        Raises ConnectionLostError within `timeout_s` seconds (default: the setting `connect_timeout_s`).
        """
        timeout_s = settings().connect_timeout_s if timeout_s is None else timeout_s
        if self.forked:
            raise ForkError(FORKED)
        made = self.converse(connect(address, "client", timeout_s), address, timeout_s)
        if first and self.opened is not None:  # opened meanwhile, by the handler of a signal
            made.close()
            return
        self.use(made)
        if not embedded:
            if settings().instruction_log:
                text = (
                    f"GT_INSTRUCTION_LOG does nothing here: it is the service at {address} that may write a log (`gt serve`)"
                )
                warnings.warn(text, stacklevel=2)
            early.stop()  # the embedded service, which this process does not use any more

    def converse(self, transport: Transport, address: str, timeout_s: float) -> Session:
        """Open a session on a connected transport. The first one owns what the process has recorded so far."""
        segment = recorder.segment if self.opened is None else recorder.new_segment(settings().segment_size)
        return Session(transport, address, timeout_s, segment)

    def use(self, made: Session) -> None:
        """Make a session the process's own."""
        with recorder.lock:
            if self.opened is not None:
                self._close_session(made.segment)
            made.segment.insert(0, wire.Seed(torch.initial_seed()))
            made.segment.limit = settings().segment_size
            self.opened = made
            self._start_flusher()

    def _start_flusher(self) -> None:
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_aged, name="gt-flush", daemon=True)
            self._flusher.start()

    def _flush_aged(self) -> None:
        """Every `segment_age_s` seconds, send an idle client's instructions, which would otherwise wait for its next one."""
        age_s, seen, since = settings().segment_age_s, None, 0.0
        while True:
            time.sleep(age_s)
            own, since, segment = self.opened, since + age_s, recorder.segment
            head: object = segment[0] if segment else None
            if own is not None and not own.in_process and ((head is not None and head is seen) or since > DRAIN_S):
                own.idle()
                since = 0.0
            seen = head

    def flush(self) -> None:
        """Send what was recorded; opens a session if there is none."""
        shutdown.leave()
        if shutdown.program_ended.is_set() and self.opened is None:
            recorder.segment.drop()  # recorded by a destructor
        else:
            self.session().flush()

    def close(self) -> None:
        """End the session and the embedded service, if any."""
        if self.opened is not None:
            self._close_session(recorder.new_segment(settings().segment_size))
        early.stop()

    def _close_session(self, segment: Segment) -> None:
        """Close the session and record into `segment` from now on: nothing meant for the old session runs in the next
        one."""
        assert self.opened is not None
        if settings().instruction_log and early.is_running():
            self.opened.finish(LOG_S)
        self.opened.close()
        self.opened = None
        definitions.forget()
        for forget in self.when_closed:
            forget()
        recorder.segment = segment
        record_open_scopes()

    def _after_fork(self) -> None:
        """In a forked child every operation fails at once: with a limit of 0 it sends, and sending raises ForkError."""
        recorder.lock = threading.RLock()
        recorder.segment.limit = 0
        self.forked = True
        if self.opened is not None:
            self.opened.leave_to_parent()
            self.opened = None
        early.leave_to_parent()
        self._flusher = None

    def _end(self) -> None:
        with recorder.lock:
            shutdown.program_ended.set()
            self.close()
            recorder.segment.limit = 0
        shutdown.wait_for_threads(self._flusher)


process = Process()
