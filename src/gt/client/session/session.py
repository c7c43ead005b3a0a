"""One client's conversation with the dispatcher: sends segments, waits for answers, raises what the worker reports."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch

from gt.client.session import shutdown, worker_reports
from gt.client.session.configured import configured
from gt.client.session.pace import Pace
from gt.client.session.savings import Saving, Savings
from gt.client.stream import operands
from gt.client.stream.definitions import definitions
from gt.client.stream.readings import readings
from gt.client.stream.scopes import record_open_scopes
from gt.client.stream.segment import Segment, recorder
from gt.errors import ConnectionLostError, ForkError, GTError, ProtocolError, WorkerLostError
from gt.wire import codec, messages
from gt.wire import instructions as wire
from gt.wire.shared import Frame, Shared, inline
from gt.wire.text import printable
from gt.wire.transport import Transport

FORKED = (
    "a forked child touched a remote tensor; remote tensors belong to the process that made them."
    " Use them in the parent only, fork before the first one is made, or start the child with the 'spawn' method"
)
MAX_UNDERWAY_BYTES = 64 << 20
"""The most bytes of uploads under way: a client that streams a model waits instead of queueing all of it."""
_requests = itertools.count(1).__next__


class Session:
    """Opened by its constructor. From then on whatever sends or receives holds the recorder's lock."""

    def __init__(self, transport: Transport, address: str, timeout_s: float, segment: Segment) -> None:
        self.address = address
        self.segment = segment
        self.pid = os.getpid()
        self.seq = 0
        """The number of the batch that was sent last."""
        self.done = 0
        """The number of the last batch that a worker has executed, or that was lost."""
        self.epoch = 0
        """The number of workers that died under this session. The dispatcher drops batches of an earlier epoch."""
        self.closed = False
        self.in_process = False
        """Whether its workers run in this process: then nothing happens behind the program's back."""
        self.unreported: GTError | None = None
        """An error from a time when nobody was using the session."""
        self._transport = transport
        self._pace = Pace()
        self._heavy: deque[tuple[int, int]] = deque()
        """(Number, bytes) of the batches under way that carry uploads."""
        self._warnings: list[messages.Warned] = []
        """Warnings of the worker's PyTorch that the user has not been shown yet."""
        self._answers: dict[int, tuple[messages.Answer, bytes | Shared] | None] = {}
        self.savings = Savings(self.look)
        self._welcome: messages.Welcome | None = None
        try:
            self._open(timeout_s)
        except BaseException:
            transport.close()
            raise

    def _open(self, timeout_s: float) -> None:
        hello = messages.Hello(messages.PROTOCOL, self.pid, socket.gethostname(), configured.sharding)
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
        """The dispatcher's latest word on this session: its number, its workers, its credit."""
        assert self._welcome is not None
        return self._welcome

    @property
    def is_on_cpus(self) -> bool:
        """Whether every worker of the session computes on a CPU, as this process does."""
        return all(worker.device == "cpu" for worker in self.welcome.workers)

    def flush(self) -> None:
        """Send what was recorded. Waits only when too many batches are under way."""
        with recorder.lock:
            self._check()
            if count := len(self.segment):
                self._send_segment()
                self.segment.limit = self._pace.after_sending(count, self.segment.limit)
            self._respect_credit()

    def _send_segment(self) -> None:
        items = self.segment[:]
        try:
            packed = codec.pack(items)
        except (TypeError, ValueError, OverflowError):  # such as a name that is not Unicode
            self.segment[:] = [i for i in self.segment if codec.is_sendable(i)]
            readings.forget()
            raise
        outgoing = [codec.encode(messages.Run(self.seq + 1, packed, self.epoch)), *self.segment.frames]
        self._send(outgoing)
        readings.note_sent(items)
        self.segment.mark_sent(items)
        self.seq += 1
        if len(outgoing) > 1:
            self._heavy.append((self.seq, sum(map(len, outgoing))))

    def _send(self, frames: list[Frame]) -> None:
        """Send a message. If the peer is gone, messages that arrived before may tell why; then their error is raised."""
        try:
            self._transport.send(frames)
        except ConnectionLostError as error:
            gone = error
        else:
            return
        while self._take_in():
            pass
        raise gone

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
        with recorder.lock:
            number = _requests()
            self._answers[number] = None
            try:
                self.segment.append(request(number))
                self.flush()
                while (found := self._answers[number]) is None:
                    self._receive(None)
            finally:
                del self._answers[number]
            said, self._warnings = self._warnings, []
        for warned in said:
            worker_reports.warn(warned)
        answer, data = found
        self.segment.limit = self._pace.after_answer()
        if answer.failure is not None:
            raise worker_reports.exception(answer.failure)
        return answer, data

    def save(self, path: Path, request: Callable[[int], wire.Instruction]) -> Saving:
        """Send a request to write a file in the background, with all that came before it, and do not wait."""
        with recorder.lock:
            number = _requests()
            saving = self.savings.begin(number, path)
            try:
                self.segment.append(request(number))
                self.flush()
            except BaseException:
                self.savings.drop(number)
                raise
        return saving

    def look(self) -> None:
        """Handle what has arrived."""
        with recorder.lock:
            self._check()
            while self._receive(0.0):
                pass

    def last_batch(self) -> int:
        """The number of the batch that ends with what has been recorded so far, or with more."""
        with recorder.lock:
            return self.seq + bool(self.segment)

    def has_executed(self, batch: int) -> bool:
        """Whether a worker has executed a batch, which is sent if it is still being recorded; or the session has ended."""
        with recorder.lock:
            if self.closed:
                return True
            if self.seq < batch:
                self.flush()
            self.look()
            return self.done >= batch

    def worker_stats(self, reset_peak: bool = False) -> list[messages.WorkerStats]:
        """What each worker of this session counts for it, once everything recorded so far is done.

        `reset_peak`: their peaks are counted anew from then. Raises ProtocolError if the answer lacks them.
        """
        answer, _ = self.ask(lambda request: wire.Stats(request, reset_peak))
        if len(answer.stats) != len(self.welcome.workers):
            raise ProtocolError("the worker was asked for its statistics and answered without them")
        return answer.stats

    def _receive(self, timeout_s: float | None) -> bool:
        """Handle one message. Returns False if none has arrived after `timeout_s` seconds, or on a spurious wake-up."""
        if timeout_s != 0.0:
            self._transport.wait(timeout_s)
        return self._take_in()

    def _take_in(self) -> bool:
        received = self._transport.receive(0.0)
        if received is None:
            return False
        message = codec.to_client(inline(received[0] if received else b""))
        if isinstance(message, messages.Done):
            self._hear(message, received[1:])
        elif isinstance(message, messages.Late):
            self.savings.hear(message.answer, late=True)
        elif isinstance(message, messages.Welcome):
            if message.credit < 1:
                raise ProtocolError(f"a credit of {message.credit} batches")
            if not message.workers:
                raise ProtocolError("a session without a worker")
            self._welcome = message
        elif isinstance(message, messages.SessionLost):
            self._lose(message)
        elif isinstance(message, messages.Rejected):
            raise ConnectionLostError(f"{self.address}: {printable(message.reason)}")
        return True

    def _hear(self, done: messages.Done, frames: list[Frame]) -> None:
        """Handle the report of a batch. Raises ProtocolError for an answer whose bytes did not come with it."""
        self.done = max(self.done, min(done.seq, self.seq))
        self._warnings += done.warnings
        for answer in done.answers:
            self.savings.hear(answer, late=False)
            if answer.request not in self._answers:
                continue
            if not -1 <= answer.frame < len(frames):
                raise ProtocolError(f"an answer names frame {answer.frame} of {len(frames)}")
            self._answers[answer.request] = (answer, _kept(frames[answer.frame]) if answer.frame >= 0 else b"")

    def _lose(self, loss: messages.SessionLost) -> None:
        """The worker died, with all its tensors. New ones may live on another worker, where nothing is defined yet."""
        self.done = self.seq
        self.epoch = loss.epoch
        lose_tensors()
        self.savings.lose("its worker died", WorkerLostError)
        definitions.forget()
        self.segment.drop()
        record_open_scopes()
        self.segment.append(wire.Seed(torch.initial_seed()))
        raise WorkerLostError(printable(loss.reason))

    def _check(self) -> None:
        if self.pid != os.getpid():
            raise ForkError(FORKED)
        if self.unreported is not None:
            error, self.unreported = self.unreported, None
            raise error
        if self.closed:
            shutdown.leave()
            raise ConnectionLostError(f"the session on {self.address} is closed; its tensors are gone")

    def idle(self) -> None:
        """Send what waits in the segment and handle what has arrived, unless another thread is using the session."""
        if recorder.lock.acquire(blocking=False):
            try:
                if not self.closed and self.pid == os.getpid():
                    if self.segment:
                        self.flush()
                    while self._receive(0.0):
                        pass
            except GTError as error:
                self.unreported = error  # for the user's next use, on the user's thread
            finally:
                recorder.lock.release()

    def finish(self, timeout_s: float) -> None:
        """Wait until all that was recorded has been executed; no longer than `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        with recorder.lock:
            try:
                self.flush()
                while self.done < self.seq and (left := deadline - time.monotonic()) > 0:
                    self._receive(left)
            except GTError:
                pass  # its tensors are gone, and the program ends

    def leave_to_parent(self) -> None:
        """In a forked child: the conversation is the parent's, and must end with the parent."""
        self.closed = True
        self._transport.leave_to_parent()

    def close(self) -> None:
        """Say goodbye: the dispatcher frees everything that this session had."""
        with recorder.lock:
            if self.closed:
                return
            self.closed = True
            self.savings.lose("its session ended", ConnectionLostError)
            try:
                self._transport.send([codec.encode(messages.Goodbye())])
            except GTError:
                pass  # a dispatcher that is gone has nothing left to free
            self._transport.close()


def lose_tensors() -> None:
    """All remote tensors made so far are gone."""
    operands.lose_all(_requests())
    readings.forget()


def _kept(frame: Frame) -> bytes | Shared:
    """A copy of a frame that a program may keep and drop at any time: PyZMQ checks for signals when it frees one of its
    own."""
    return frame if isinstance(frame, Shared) else bytes(frame)
