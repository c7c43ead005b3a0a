"""The session of this process, one at a time: opened by the first flush, changed by `gt.connect`, closed with the program.

It is on `GT_ADDRESS`, on the address given to `gt.connect`, or on the embedded service that was started while `gt` was
imported.
"""

from __future__ import annotations

import os
import threading
import time
import warnings

import torch

from gt.client import early, ending, record
from gt.client.session import FORKED, Session, forget_recorded
from gt.config import settings
from gt.errors import ForkError
from gt.wire import instructions as wire
from gt.wire.transport import connect

START_TIMEOUT_S = 60.0
LOG_S = 10.0
"""How long a program that ends waits for what it has recorded to be executed, and so to stand in the instruction log."""
DRAIN_S = 1.0
"""An idle client takes in what has arrived this often, in seconds."""


class Process:
    """What this process has. `flusher` is the thread of `_flush_aged`; `forked`: it is a child, and has no session."""

    session: Session | None = None
    forked = False
    flusher: threading.Thread | None = None


def session() -> Session:
    """The open session; opens one if there is none."""
    ending.leave()
    if Process.forked:
        raise ForkError(FORKED)
    if Process.session is None:
        with record.lock:
            if Process.session is None:
                _open_default()
    assert Process.session is not None
    return Process.session


def _open_default() -> None:
    address = settings().address
    if address:
        join(address, first=True)
        return
    service = early.take()
    service.wait_ready(START_TIMEOUT_S)
    join(service.address, START_TIMEOUT_S, embedded=True, first=True)


def join(address: str, timeout_s: float | None = None, embedded: bool = False, first: bool = False) -> None:
    """Open a session on a running service; the session before it, if any, is closed.

    Raises ConnectionLostError within `timeout_s` seconds (default: the setting `connect_timeout_s`).
    """
    timeout_s = settings().connect_timeout_s if timeout_s is None else timeout_s
    if Process.forked:
        raise ForkError(FORKED)
    made = Session(connect(address, "client", timeout_s), address, timeout_s)
    if first and Process.session is not None:  # opened meanwhile, by the handler of a signal
        made.close()
        return
    use(made)
    if not embedded:
        if settings().instruction_log:
            text = f"GT_INSTRUCTION_LOG does nothing here: it is the service at {address} that may write a log (`gt serve`)"
            warnings.warn(text, stacklevel=2)
        early.stop()  # the embedded service, which this process does not use any more


def use(made: Session) -> None:
    """Make a session the process's own."""
    with record.lock:
        _close_session()
        record.segment.insert(0, wire.Seed(torch.initial_seed()))
        record.Flush.limit = settings().segment_size
        Process.session = made
        _start_flusher()


def _start_flusher() -> None:
    if Process.flusher is None:
        Process.flusher = threading.Thread(target=_flush_aged, name="gt-flush", daemon=True)
        Process.flusher.start()


def _flush_aged() -> None:
    """An idle client's instructions do not wait for its next one: look every `segment_age_s` seconds."""
    age_s, seen, since = settings().segment_age_s, None, 0.0
    while True:
        time.sleep(age_s)
        own, since = Process.session, since + age_s
        head: object = record.segment[0] if record.segment else None
        if own is not None and ((head is not None and head is seen) or since > DRAIN_S):
            own.idle()
            since = 0.0
        seen = head


def _flush() -> None:
    ending.leave()
    if ending.End.reached and Process.session is None:
        record.segment.clear()  # of a destructor
    else:
        session().flush()


def _after_fork() -> None:
    """In a forked child every operation must fail at once: a limit of 0 sends, and sending refuses."""
    record.lock = threading.RLock()
    record.Flush.limit = 0
    Process.forked = True
    if Process.session is not None:
        Process.session.leave_to_parent()
        Process.session = None
    early.leave_to_parent()
    Process.flusher = None


def close() -> None:
    """End the session and the embedded service, if any."""
    _close_session()
    early.stop()


def _close_session() -> None:
    if Process.session is not None:
        if settings().instruction_log and early.is_running():
            Process.session.finish(LOG_S)
        Process.session.close()
        Process.session = None
        forget_recorded()


def _end() -> None:
    with record.lock:
        ending.End.reached = True
        close()
        record.Flush.limit = 0
    ending.wait_for_threads(Process.flusher)


record.Flush.send = _flush
os.register_at_fork(after_in_child=_after_fork)
ending.Last(_end)
