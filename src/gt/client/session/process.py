"""The session of this process, one at a time: opened by the first flush, changed by `gt.connect`, closed with the program.

It is on `GT_ADDRESS`, on the address given to `gt.connect`, or on the embedded service that was started while `gt` was
imported.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable

import torch

from gt import waiting
from gt.client.session import shutdown
from gt.client.session.configured import configured
from gt.client.session.early_start import early
from gt.client.session.session import FORKED, Session, lose_tensors
from gt.client.stream.definitions import definitions
from gt.client.stream.scopes import record_open_scopes
from gt.client.stream.segment import Lock, Segment, recorder
from gt.config import settings
from gt.errors import ConnectionLostError, ForkError, GTError
from gt.wire import instructions as wire
from gt.wire.transport import Transport, connect

START_TIMEOUT_S = 60.0
LOG_S = 10.0
"""How long an ending program waits for its last instructions to be executed, and so to appear in the instruction log."""
ONE_OF_SEVERAL = (
    "this program has {} workers to itself and uses one of them: GT_CONFIG=FILE says how to use all of them"
    " (docs/sharding.md), GT_WORKERS=1 starts only one"
)
BEFORE_TENSORS = (wire.Seed, wire.SetRandomState, wire.Scope)
"""Instructions that name no tensor: whatever they say holds for the tensors of a forked child as well."""
SAVE_S = 600.0
"""How long an ending session waits for files that are being written in the background."""
RETRY_S = 0.5
"""Interval at which `reopen` looks for a service."""
DRAIN_S = 1.0
"""Interval at which an idle client receives what has arrived."""


class Process:
    """This process as a client: its session, and what becomes of it at a fork and at the program's end."""

    def __init__(self) -> None:
        self.opened: Session | None = None
        self.forked = False
        """Whether this is a child that was forked when something remote was in use, which has no session."""
        self.when_closed: list[Callable[[], None]] = []
        """What is to be forgotten with a session, as its tensors are gone."""
        self._flusher: threading.Thread | None = None
        """The thread of `_flush_aged`."""
        recorder.segment.limit = settings().segment_limit
        os.register_at_fork(after_in_child=self._after_fork)
        shutdown.Last(self._end)

    def has_begun(self) -> bool:
        """Whether there is a session, or anything was recorded for one but seeds and scopes."""
        return self.opened is not None or any(type(item) not in BEFORE_TENSORS for item in recorder.segment)

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
        else:
            self._open_embedded(START_TIMEOUT_S)

    def _open_embedded(self, timeout_s: float) -> None:
        service = early.take()
        service.wait_ready(timeout_s)
        self.join(service.address, timeout_s, embedded=True, first=True)
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

    def reopen(self, timeout_s: float, report: Callable[[str], None]) -> None:
        """Give up the session, and open one as that was opened: on a new embedded service, or at the same address as soon as
        it has the workers. `report` is told what is waited for.

        Raises ConnectionLostError after `timeout_s` seconds, StartError if the embedded service does not start.
        """
        if self.forked:
            raise ForkError(FORKED)
        own = self.opened
        address = settings().address if own is None or early.is_running() else own.address
        self.close()
        if address:
            self._rejoin(address, timeout_s, report)
        else:
            self._open_embedded(timeout_s)

    def _rejoin(self, address: str, timeout_s: float, report: Callable[[str], None]) -> None:
        deadline, said = time.monotonic() + timeout_s, ""
        while True:
            left = max(RETRY_S, deadline - time.monotonic())
            try:
                return self.join(address, min(left, settings().connect_timeout_s), first=True)
            except ConnectionLostError as error:
                if time.monotonic() + RETRY_S > deadline:
                    raise ConnectionLostError(f"{error} (not for {timeout_s:g} s)") from None
                if str(error) != said:
                    said = str(error)
                    report(f"waiting up to {left:.0f} s: {said}")
            waiting.sleep(RETRY_S)

    def converse(self, transport: Transport, address: str, timeout_s: float) -> Session:
        """Open a session on a connected transport. The first one owns what the process has recorded so far."""
        segment = recorder.segment if self.opened is None else recorder.new_segment(settings().segment_limit)
        return Session(transport, address, timeout_s, segment)

    def use(self, made: Session) -> None:
        """Make a session the process's own."""
        with recorder.lock:
            if self.opened is not None:
                self._close_session(made.segment)
            made.segment.insert(0, wire.Seed(torch.initial_seed()))
            made.segment.limit = settings().segment_limit
            self.opened = made
            self._start_flusher()

    def _start_flusher(self) -> None:
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_aged, name="gt-flush", daemon=True)
            self._flusher.start()

    def _flush_aged(self) -> None:
        """Every `segment_age_s` seconds, send an idle client's instructions, which would otherwise wait for its next one.

        The program's tracers and profilers are not called: `python -m trace` looks at its counts while they are written.
        """
        sys.settrace(None)
        sys.setprofile(None)
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
        """Send what was recorded; opens a session if there is none. With GT_SYNC it waits, and raises what went wrong."""
        shutdown.leave()
        if shutdown.program_ended.is_set() and self.opened is None:
            recorder.segment.drop()  # recorded by a destructor
            return
        self.session().flush()
        if settings().sync:
            self.session().ask(wire.Synchronize)

    def close(self) -> None:
        """End the session and the embedded service, if any. A Ctrl-C ends the wait for files in the background alone."""
        try:
            if self.opened is not None:
                self._close_session(recorder.new_segment(settings().segment_limit))
        finally:
            early.stop()

    def _close_session(self, segment: Segment) -> None:
        """Close the session and record into `segment` from now on: nothing meant for the old session runs in the next
        one."""
        own = self.opened
        assert own is not None
        try:
            with contextlib.suppress(GTError):
                own.savings.wait(SAVE_S)
        finally:
            if settings().instruction_log and early.is_running():
                own.finish(LOG_S)
            own.close()
            self._forget_session(segment)
            for text in own.savings.untold():
                warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _forget_session(self, segment: Segment) -> None:
        self.opened = None
        lose_tensors()
        definitions.forget()
        for forget in self.when_closed:
            forget()
        recorder.segment = segment
        record_open_scopes()

    def _after_fork(self) -> None:
        """A forked child has a session and a service of its own, as any process.

        If its parent used anything remote before, every operation fails at once instead: with a limit of 0 it sends, and
        sending raises ForkError.
        """
        recorder.lock = Lock()
        early.leave_to_parent()
        self._flusher = None
        if self.has_begun():
            self.forked = True
            recorder.segment.limit = 0
        if self.opened is not None:
            self.opened.leave_to_parent()
            self.opened = None

    def _end(self) -> None:
        with recorder.lock:
            shutdown.program_ended.set()
            try:
                with contextlib.suppress(KeyboardInterrupt):
                    self.close()
            finally:
                recorder.segment.limit = 0
        shutdown.wait_for_threads(self._flusher)


process = Process()
