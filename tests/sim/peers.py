"""Honest clients and workers of a dispatcher: they assert what they may expect, whatever others send."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from gt.errors import ProtocolError
from gt.placement.layout import Sharding
from gt.wire import codec, messages
from gt.wire import instructions as wire

CREDIT = 4


class Client:
    """An honest client. `sent`: its pending batches; `asked`: its unanswered requests, numbered uniquely among all clients;
    `mail`: its messages that the dispatcher has not received yet."""

    def __init__(self, next_tag: Callable[[], int], peer: bytes, sharding: Sharding | None) -> None:
        self.next_tag, self.peer = next_tag, peer
        self.mail: deque[tuple[Any, list[bytes]]] = deque()
        self.session = self.seq = self.epoch = 0
        self.is_open = self.is_rejected = False
        self.sent: deque[int] = deque()
        self.asked: set[int] = set()
        self.say(messages.Hello(messages.PROTOCOL, 1, "host", sharding))

    def say(self, message: messages.FromClient, frames: list[bytes] | None = None) -> None:
        self.mail.append((message, frames or []))

    def run(self, count: int) -> None:
        """Send `count` requests; one in three comes with an upload."""
        if not self.is_open or len(self.sent) > CREDIT:
            return
        items: list[wire.Instruction] = []
        frames: list[bytes] = []
        for _ in range(count):
            tag = self.next_tag()
            self.asked.add(tag)
            if tag % 3 == 0:
                items.append(wire.Upload(tag, wire.Geometry((), (), 0, "int64"), len(frames), 0))
                frames.append(tag.to_bytes(8, "little"))
            items.append(wire.Synchronize(tag))
        self.seq += 1
        self.sent.append(self.seq)
        self.say(messages.Run(self.seq, codec.pack(items), self.epoch), frames)

    def hear(self, message: messages.ToClient, frames: list[bytes], honest: bool) -> None:
        """`honest`: the message comes from an honest worker, or from the dispatcher itself."""
        match message:
            case messages.Welcome():
                assert self.session in (0, message.session)
                self.session, self.is_open = message.session, True
            case messages.Done():
                self.hear_done(message, frames, honest)
            case messages.Late():
                assert (message.session, honest) == (self.session, False)  # honest workers are asked for none here
            case messages.SessionLost():
                assert message.epoch == self.epoch + 1
                self.epoch = message.epoch
                self.sent.clear()
                self.asked.clear()
            case messages.Rejected():
                assert not self.is_open, message.reason
                self.is_rejected = True
            case _:
                raise AssertionError(f"unasked: {message}")

    def hear_done(self, done: messages.Done, frames: list[bytes], honest: bool) -> None:
        assert done.session == self.session
        if done.seq:
            assert done.seq == self.sent.popleft()
        for answer in done.answers:
            assert -1 <= answer.frame < len(frames)
            if honest:
                assert answer.request in self.asked
                assert int.from_bytes(frames[answer.frame], "little") == answer.request
            self.asked.discard(answer.request)


class Gang:
    """One session of several workers, as long as it is on the same ones: how many slices each of its ranks has begun."""

    def __init__(self, ranks: int) -> None:
        self.begun = [0] * ranks

    def have_all_begun(self, count: int) -> bool:
        return min(self.begun) >= count


class Worker:
    """An honest worker: executes what it gets in order, and knows which sessions it holds."""

    def __init__(self, meetings: dict[str, Gang], peer: bytes, info: messages.WorkerInfo) -> None:
        self.meetings, self.peer = meetings, peer
        self.inbox: deque[tuple[Any, list[bytes]]] = deque()
        self.mail: deque[tuple[Any, list[bytes]]] = deque([(messages.Register(messages.PROTOCOL, info), [])])
        self.held: dict[int, int] = {}
        """Session -> the highest request executed."""
        self.ended: set[int] = set()
        self.gangs: dict[int, tuple[int, Gang]] = {}
        """Session -> this worker's rank in it."""
        self.waits: tuple[messages.Done, list[bytes], Gang, int] | None = None
        """A report that it may send when all of a gang have begun so many slices."""

    def work(self) -> bool:
        """Do one thing; False if there is nothing to do, or it waits for others."""
        if self.waits is not None:
            return self.go_on(*self.waits)
        if not self.inbox:
            return False
        message, frames = self.inbox.popleft()
        match message:
            case messages.Execute():
                self.execute(message, frames)
            case messages.Join():
                assert message.session not in self.held, "a session begins twice"
                gang = self.meetings.setdefault(message.meeting, Gang(math.prod(message.sizes)))
                self.gangs[message.session] = message.rank, gang
                self.held[message.session] = 0
                self.ended.discard(message.session)
            case messages.EndSession():
                del self.held[message.session]
                self.gangs.pop(message.session, None)
                self.ended.add(message.session)
        return True

    def go_on(self, done: messages.Done, frames: list[bytes], gang: Gang, count: int) -> bool:
        """End a collective if all have begun it, or if the session's end has arrived."""
        over = any(isinstance(m, messages.EndSession) and m.session == done.session for m, _ in self.inbox)
        if not over and not gang.have_all_begun(count):
            return False
        self.waits = None
        self.mail.append((done, frames))
        return True

    def report(self, done: messages.Done, frames: list[bytes]) -> None:
        """Report a slice, in a gang once all have begun it; only the first of them sends bytes."""
        if done.session not in self.gangs:
            self.mail.append((done, frames))
            return
        rank, gang = self.gangs[done.session]
        gang.begun[rank] += 1
        if rank:
            answers = [msgspec.structs.replace(answer, frame=-1) for answer in done.answers]
            done, frames = msgspec.structs.replace(done, answers=answers), []
        self.waits = done, frames, gang, gang.begun[rank]

    def execute(self, message: messages.Execute, frames: list[bytes]) -> None:
        assert message.session not in self.ended
        last = self.held.setdefault(message.session, 0)
        try:
            items = codec.unpack(message.items)
        except ProtocolError:
            self.report(messages.Done(message.session, message.seq, malformed=True), [])
            return
        asked = [item.request for item in items if isinstance(item, wire.Synchronize)]
        assert asked == sorted(asked)
        if asked:
            assert last < asked[0], "batches of a session in another order"
            self.held[message.session] = asked[-1]
            for item in items:
                if isinstance(item, wire.Upload):
                    assert int.from_bytes(frames[item.frame], "little") == item.id, "another upload's bytes"
        answers = [messages.Answer(request, frame) for frame, request in enumerate(asked)]
        done = messages.Done(message.session, message.seq, answers)
        self.report(done, [request.to_bytes(8, "little") for request in asked])
