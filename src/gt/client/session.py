"""The client's session: sends segments, waits for answers, raises what the worker reports.

One session at a time serves the process. It opens at the first flush: on `GT_ADDRESS`, on the address given to
`gt.connect`, or on the embedded service that was started while `gt` was imported.
"""

from __future__ import annotations

import atexit
import builtins
import itertools
import os
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable

import torch

from gt import errors
from gt.client import blame, early, interrupts, record, sites
from gt.config import settings
from gt.errors import ConnectionLostError, ForkError, GTError, WorkerLostError
from gt.wire import codec, messages
from gt.wire import instructions as wire
from gt.wire.shared import Frame, Shared, inline
from gt.wire.transport import Transport, connect

FORKED = (
    "a forked child touched a remote tensor; remote tensors belong to the process that made them."
    " Use them in the parent only, or start the child with the 'spawn' method"
)
START_TIMEOUT_S = 60.0
FIRST_SEGMENT = 64
"""Instructions that go to a worker that is known to be idle; each segment after it is twice as long."""
MAX_UNDERWAY_BYTES = 64 << 20
"""Uploads of this many bytes may be on their way; a client that streams a model waits, and does not queue all of it."""
DRAIN_S = 1.0
"""An idle client takes in what has arrived this often, in seconds."""
_requests = itertools.count(1).__next__


class Session:
    """One client's conversation with the dispatcher. Every method holds `record.lock`."""

    def __init__(self, transport: Transport, address: str, timeout_s: float, embedded: bool = False) -> None:
        self.address = address
        self.embedded = embedded
        self.pid = os.getpid()
        self.seq = 0
        self.done = 0
        self.epoch = 0
        self.closed = False
        self.unreported: GTError | None = None
        """What went wrong while nobody was using the session."""
        self._transport = transport
        self._heavy: deque[tuple[int, int]] = deque()
        """Batches under way that carry bytes, and how many."""
        self._warnings: list[messages.Warned] = []
        """What the worker's PyTorch said and the user was not told yet."""
        self._answers: dict[int, tuple[messages.Answer, bytes | Shared] | None] = {}
        self._welcome: messages.Welcome | None = None
        try:
            self._open(timeout_s)
        except BaseException:
            transport.close()
            raise

    def _open(self, timeout_s: float) -> None:
        hello = messages.Hello(messages.PROTOCOL, self.pid, socket.gethostname())
        self._transport.send([codec.encode(hello)])
        deadline = time.monotonic() + timeout_s
        while self._welcome is None:
            left = deadline - time.monotonic()
            if left <= 0:
                reason = f"the service is there, but no worker was ready within {timeout_s:g} s"
                raise ConnectionLostError(f"{self.address}: {reason}")
            self._receive(left)

    @property
    def welcome(self) -> messages.Welcome:
        """What the dispatcher said last of this session: its number, its worker, its credit."""
        assert self._welcome is not None
        return self._welcome

    def flush(self) -> None:
        """Send what was recorded. Waits only when too many batches are under way."""
        with record.lock:
            self._check()
            if record.segment:
                with interrupts.HeldBack():
                    self._send_segment()
                record.Flush.limit = min(2 * record.Flush.limit, settings().segment_size)
            self._respect_credit()

    def _send_segment(self) -> None:
        items = record.segment[:]
        try:
            packed = codec.pack(items)
        except (TypeError, ValueError, OverflowError):  # such as a name that is no Unicode
            record.segment[:] = [i for i in record.segment if codec.is_sendable(i)]
            raise
        outgoing = [codec.encode(messages.Run(self.seq + 1, packed, self.epoch)), *record.frames]
        self._transport.send(outgoing)
        del record.segment[: len(items)]
        record.sent = items
        record.frames.clear()
        self.seq += 1
        if len(outgoing) > 1:
            self._heavy.append((self.seq, sum(map(len, outgoing))))

    def _respect_credit(self) -> None:
        credit = self.welcome.credit
        if self.seq - self.done > credit // 2:
            while self._receive(0.0):
                pass
        while self.seq - self.done > credit or self._bytes_underway() > MAX_UNDERWAY_BYTES:
            self._receive(None)

    def _bytes_underway(self) -> int:
        while self._heavy and self._heavy[0][0] <= self.done:
            self._heavy.popleft()
        return sum(size for _, size in self._heavy) if self._heavy else 0

    def ask(self, request: Callable[[int], wire.Instruction]) -> tuple[messages.Answer, bytes | Shared]:
        """Record a request, send all that came before it, and wait for its answer and its bytes.

        Ctrl-C abandons the wait alone.
        """
        with record.lock:
            number = _requests()
            self._answers[number] = None
            try:
                record.segment.append(request(number))
                self.flush()
                while (found := self._answers[number]) is None:
                    self._receive(None)
            finally:
                del self._answers[number]
        while self._warnings:
            blame.warn(self._warnings.pop(0))
        answer, data = found
        record.Flush.limit = min(FIRST_SEGMENT, settings().segment_size)  # the worker has nothing to do now
        if answer.failure is not None:
            raise exception(answer.failure)
        return answer, data

    def _receive(self, timeout_s: float | None) -> bool:
        """Take in one message. False where there is none after `timeout_s` seconds, or for no reason."""
        if timeout_s != 0.0:
            with interrupts.LetThrough():
                self._transport.wait(timeout_s)
        with interrupts.HeldBack():
            return self._take_in()

    def _take_in(self) -> bool:
        received = self._transport.receive(0.0)
        if received is None:
            return False
        message = codec.to_client(inline(received[0]))
        if isinstance(message, messages.Done):
            self.done = max(self.done, message.seq)
            self._warnings += message.warnings
            for answer in message.answers:
                if answer.request in self._answers:
                    self._answers[answer.request] = (answer, _kept(received[1 + answer.frame]) if answer.frame >= 0 else b"")
        elif isinstance(message, messages.Welcome):
            self._welcome = message
        elif isinstance(message, messages.SessionLost):
            self._lose(message)
        elif isinstance(message, messages.Rejected):
            raise ConnectionLostError(f"{self.address}: {message.reason}")
        return True

    def _lose(self, loss: messages.SessionLost) -> None:
        """The worker died. What it held is gone; new tensors may live on another, where nothing is defined yet."""
        self.done = self.seq
        self.epoch = loss.epoch
        record.segment.clear()
        record.frames.clear()
        on_worker_lost()
        record.segment.append(wire.Seed(torch.initial_seed()))
        raise WorkerLostError(loss.reason)

    def _check(self) -> None:
        if self.pid != os.getpid():
            raise ForkError(FORKED)
        if self.unreported is not None:
            error, self.unreported = self.unreported, None
            raise error
        if self.closed:
            _leave_at_the_end()
            raise ConnectionLostError(f"the session on {self.address} is closed; its tensors are gone")

    def idle(self) -> None:
        """Send what has been lying in the segment, and take in what has arrived, unless the session is in use."""
        if record.lock.acquire(blocking=False):
            try:
                if not self.closed and self.pid == os.getpid():
                    if record.segment:
                        self.flush()
                    while self._receive(0.0):
                        pass
            except GTError as error:
                self.unreported = error  # for the user's next use, on the user's thread
            finally:
                record.lock.release()

    def leave_to_parent(self) -> None:
        """In a forked child: the conversation is the parent's, and is to end with the parent."""
        self.closed = True
        self._transport.leave_to_parent()

    def close(self) -> None:
        """Say goodbye: the dispatcher frees all that this session had."""
        with record.lock:
            if self.closed:
                return
            self.closed = True
            try:
                self._transport.send([codec.encode(messages.Goodbye())])
            except GTError:
                pass  # a dispatcher that is gone has nothing left to free
            self._transport.close()


def _kept(frame: Frame) -> bytes | Shared:
    """What a program may hold of a message, and drop when it likes: PyZMQ looks for signals when it frees one."""
    return frame if isinstance(frame, Shared) else bytes(frame)


def exception(failure: messages.Failure) -> BaseException:
    """The exception that a failure on the worker stands for: PyTorch's own type where there is one."""
    kinds = (builtins, torch, torch._C, errors)
    kind = next((k for module in kinds if isinstance(k := getattr(module, failure.kind, None), type)), RuntimeError)
    if not issubclass(kind, Exception):
        kind = RuntimeError
    place = sites.describe(failure.site)
    text = failure.message + (f"\n  in {failure.op}" if failure.op else "") + (f", issued at {place}" if place else "")
    return kind(text)


def on_worker_lost() -> None:
    """Set by the kernels: forget what was defined on the worker that died."""


class Current:
    """The process's session."""

    session: Session | None = None
    forked = False
    ended = False
    """The program has ended; what is left of it are threads that nobody waits for, and destructors."""
    flusher: threading.Thread | None = None


def current() -> Session:
    """The open session; opens one if there is none."""
    _leave_at_the_end()
    if Current.forked:
        raise ForkError(FORKED)
    if Current.session is None:
        with record.lock:
            if Current.session is None:
                _open_default()
    assert Current.session is not None
    return Current.session


def _open_default() -> None:
    address = settings().address
    if address:
        join(address, first=True)
        return
    service = early.take()
    service.wait_ready(START_TIMEOUT_S)
    join(service.address, START_TIMEOUT_S, embedded=True, first=True)


def join(address: str, timeout_s: float | None = None, embedded: bool = False, first: bool = False) -> Session:
    """Open a session on a running service; the session before it, if any, is closed.

    Raises ConnectionLostError within `timeout_s` seconds (default: the setting `connect_timeout_s`).
    """
    timeout_s = settings().connect_timeout_s if timeout_s is None else timeout_s
    if Current.forked:
        raise ForkError(FORKED)
    session = Session(connect(address, "client", timeout_s), address, timeout_s, embedded)
    if first and Current.session is not None:  # opened meanwhile, by the handler of a signal
        session.close()
        return Current.session
    use(session)
    if not embedded:
        if settings().instruction_log:
            text = f"GT_INSTRUCTION_LOG does nothing here: it is the service at {address} that may write a log (`gt serve`)"
            warnings.warn(text, stacklevel=2)
        early.stop()  # the embedded service, which this process does not use any more
    return session


def use(session: Session) -> Session:
    """Make a session the process's own."""
    with record.lock:
        if Current.session is not None:
            Current.session.close()
            _forget_session()
        record.segment.insert(0, wire.Seed(torch.initial_seed()))
        record.Flush.limit = settings().segment_size
        Current.session = session
        _start_flusher()
    return session


def _start_flusher() -> None:
    if Current.flusher is None:
        Current.flusher = threading.Thread(target=_flush_aged, name="gt-flush", daemon=True)
        Current.flusher.start()


def _flush_aged() -> None:
    """An idle client's instructions do not wait for its next one: look every `segment_age_s` seconds."""
    age_s, seen, since = settings().segment_age_s, None, 0.0
    while True:
        time.sleep(age_s)
        session, since = Current.session, since + age_s
        head: object = record.segment[0] if record.segment else None
        if session is not None and ((head is not None and head is seen) or since > DRAIN_S):
            session.idle()
            since = 0.0
        seen = head


def _flush() -> None:
    _leave_at_the_end()
    if Current.ended and Current.session is None:
        record.segment.clear()  # of a destructor
    else:
        current().flush()


def _after_fork() -> None:
    """In a forked child every operation must fail at once: a limit of 0 sends, and sending refuses."""
    record.lock = threading.RLock()
    record.Flush.limit = 0
    Current.forked = True
    if Current.session is not None:
        Current.session.leave_to_parent()
        Current.session = None
    early.leave_to_parent()
    Current.flusher = None


def close() -> None:
    """End the session and the embedded service, if any."""
    if Current.session is not None:
        Current.session.close()
        Current.session = None
        _forget_session()
    early.stop()


GRACE_S = 0.05
"""How long a program that ends waits for the threads that nobody waits for to come to their next operation."""
END_S = 10.0
"""How long for one that is in the midst of an operation, which may be loading parts of PyTorch."""


def _end() -> None:
    """The program has ended. Threads that go on leave at their next operation: Python would end them in the midst of C++."""
    with record.lock:
        Current.ended = True
        close()
        record.Flush.limit = 0
    began = time.monotonic()
    for thread in threading.enumerate():
        if thread.daemon and thread is not Current.flusher:
            while thread.is_alive() and time.monotonic() - began < (END_S if _is_inside(thread) else GRACE_S):
                thread.join(GRACE_S / 5)


def _is_inside(thread: threading.Thread) -> bool:
    """Whether a thread runs code of this package."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("gt."):
        frame = frame.f_back
    return frame is not None


def _leave_at_the_end() -> None:
    if Current.ended and threading.current_thread() is not threading.main_thread():
        raise SystemExit  # which ends a thread, and nothing is said of it


def _forget_session() -> None:
    """What was recorded for a session that is closed must not run in the next."""
    on_worker_lost()
    record.segment.clear()
    record.frames.clear()


_scopes: list[str] = []


def enter_scope(name: str) -> None:
    _scopes.append(name)
    record.record(wire.Scope("/".join(_scopes)))


def leave_scope() -> None:
    _scopes.pop()
    record.record(wire.Scope("/".join(_scopes)))


record.Flush.send = _flush
os.register_at_fork(after_in_child=_after_fork)
atexit.register(_end)
