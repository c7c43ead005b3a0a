"""Messages between a dispatcher and its peers, over either transport: whole, in order, without blocking third parties."""

from __future__ import annotations

import fcntl
import gc
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from gt.errors import ConnectionLostError
from gt.wire import addresses, codec, connection_errors, messages, unix
from gt.wire.shared import SEALS, SHARE_FROM_BYTES, Frame, Shared, mapped, share
from gt.wire.stream import SHARED
from gt.wire.tcp import TcpTransport
from gt.wire.transport import Router, Transport, connect, listen
from gt.wire.unix import UnixRouter
from tests.conftest import free_ports

PATIENCE_S = 20.0
Message = tuple[bytes, list[bytes] | None]


@pytest.fixture(params=["ipc", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/socket" if request.param == "ipc" else f"tcp://127.0.0.1:{free_ports()}"


class Side:
    """A dispatcher's side: a router and the messages it has received, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.router: Router = listen(address, "worker")
        self.arrived: list[tuple[bytes, list[Frame] | None]] = []

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < end
            self.arrived += self.router.take()

    def next(self) -> Message:
        self.until(lambda: bool(self.arrived))
        peer, frames = self.arrived.pop(0)
        return peer, None if frames is None else [bytes(f) for f in mapped(frames)]

    def join(self) -> tuple[Transport, bytes]:
        """Connect a new peer; returns it and its name."""
        with ThreadPoolExecutor(1) as executor:
            made = executor.submit(connect, self.address, "worker", PATIENCE_S)
            self.until(made.done)
        peer = made.result()
        peer.send([b"hello"])
        name, frames = self.next()
        assert frames == [b"hello"]
        return peer, name


@pytest.fixture
def side(address: str) -> Iterator[Side]:
    made = Side(address)
    with closing(made.router):
        yield made


def pieces(seed: int) -> list[Frame]:
    """The frames of a message: a few, or more than one system call accepts; empty, large and shared ones."""
    rng = random.Random(seed)
    count = rng.choice([1, 1, 2, 5, 3000])
    most = rng.choice([0, 1, 300, 70_000, 3_000_000]) if count < 10 else 50
    made = [memoryview(rng.randbytes(rng.randint(0, most))) for _ in range(count)]
    return [made[0], *(share(f) if rng.random() < 0.7 else f for f in made[1:])]


def bytes_of(frames: Sequence[Frame] | None) -> list[bytes]:
    return [bytes(f) for f in mapped(frames or [])]


def test_messages_arrive_whole_and_in_order_both_ways(side: Side) -> None:
    peer, name = side.join()
    with closing(peer):
        sent = [pieces(seed) for seed in range(60)]
        sender = threading.Thread(target=lambda: [peer.send(frames) for frames in sent])
        sender.start()
        assert [side.next() for _ in sent] == [(name, bytes_of(frames)) for frames in sent]
        sender.join()
        for frames in sent:
            assert side.router.send(name, frames)
        answers = ThreadPoolExecutor(1).submit(lambda: [peer.receive(PATIENCE_S) for _ in sent])
        side.until(answers.done)
        assert list(map(bytes_of, answers.result())) == list(map(bytes_of, sent))


def test_who_does_not_read_keeps_nobody_waiting_and_gets_all_of_it_later(side: Side) -> None:
    (deaf, name), (other, its_name) = side.join(), side.join()
    with closing(deaf), closing(other):
        large = [os.urandom(1 << 20)] * 30
        assert side.router.send(name, large)
        assert side.router.send(name, [b"last"])
        assert side.router.send(its_name, [b"answer"])
        assert other.receive(PATIENCE_S) == [b"answer"]
        reader = ThreadPoolExecutor(1).submit(lambda: (deaf.receive(PATIENCE_S), deaf.receive(PATIENCE_S)))
        side.until(reader.done)
        assert reader.result() == (large, [b"last"])


def test_who_never_reads_is_gone_once_too_much_waits_for_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_errors, "MAX_UNREAD", 20)
    side = Side(address)
    with closing(side.router):
        deaf, name = side.join()
        with closing(deaf):
            if isinstance(deaf, TcpTransport):  # limits how much libzmq reads ahead
                deaf._socket.setsockopt(zmq.RCVHWM, 1)
            sent = 0
            while side.router.send(name, [bytes(1 << 20)]):
                sent += 1
                assert sent < 1000
            assert sent >= 20
            side.router.drop(name)
            assert not isinstance(side.router, UnixRouter) or not side.router.send(name, [b""])


def test_a_peer_that_leaves_is_gone_and_the_others_stay(side: Side) -> None:
    (leaver, name), (other, its_name) = side.join(), side.join()
    leaver.close()
    gone: list[bytes] = []

    def noticed() -> bool:
        gone.extend(peer for peer, frames in side.arrived if frames is None)
        gone.extend(side.router.probe())
        return bool(gone)

    side.until(noticed)
    assert gone == [name]
    assert not side.router.send(name, [b"to nobody"])
    with closing(other):
        assert side.router.send(its_name, [b"still there"])
        while (heard := other.receive(PATIENCE_S)) == [codec.encode(messages.Ping())]:
            pass
        assert heard == [b"still there"]


def test_a_dispatcher_that_leaves_is_gone_once_all_that_it_said_is_heard(side: Side) -> None:
    (peer, name), (other, _) = side.join(), side.join()
    with closing(peer), closing(other):
        assert side.router.send(name, [b"first"])
        assert peer.receive(PATIENCE_S) == [b"first"]
        assert peer.receive(0) is None  # libzmq has to wake its reader for what comes next
        assert side.router.send(name, [b"last words"])
        side.router.close()
        with pytest.raises(ConnectionLostError):
            other.receive(PATIENCE_S)  # so both the words and the end have arrived when the peer looks
        assert peer.receive(PATIENCE_S) == [b"last words"]
        with pytest.raises(ConnectionLostError, match="the dispatcher is gone"):
            peer.receive(PATIENCE_S)
        with pytest.raises(ConnectionLostError, match="the dispatcher is gone"):
            peer.send([b"to nobody"])


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", unix.GREETING + b"\xff" * 100], ids=["stranger", "no length"])
def test_what_speaks_otherwise_is_shown_the_door_and_counted(said: bytes, tmp_path: Path) -> None:
    side = Side(f"ipc://{tmp_path}/socket")
    peer, name = side.join()
    with closing(side.router), closing(peer), socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(addresses.path(addresses.workers(side.address))))
        stranger.sendall(said)
        (first, frames), (second, end) = side.next(), side.next()
        assert (frames, end) == ([], None)
        assert first == second != name
        assert side.router.send(name, [b"still here"])
        assert peer.receive(PATIENCE_S) == [b"still here"]


def open_files() -> int:
    """How many descriptors this process has, without those of objects that only the garbage collector still knows."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def descriptor(seals: int, size: int = SHARE_FROM_BYTES) -> int:
    file = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(file, size)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


SHRINKING = "could be taken away from who reads it"
UNSAFE: dict[str, Callable[[], list[int]]] = {
    "none": lambda: [],
    SHRINKING: lambda: [descriptor(fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)],
    "of another size": lambda: [descriptor(SEALS, SHARE_FROM_BYTES - 1)],
    "no memory": lambda: [os.open("/dev/null", os.O_RDONLY)],
    "a folder": lambda: [os.open("/", os.O_RDONLY), descriptor(SEALS)],
    "many": lambda: [descriptor(SEALS) for _ in range(251)],
}


@pytest.mark.parametrize("what", UNSAFE)
def test_a_frame_that_is_no_sealed_memory_is_refused_before_anyone_reads_it(what: str, tmp_path: Path) -> None:
    side = Side(f"ipc://{tmp_path}/socket")
    before = open_files() + 1  # the rogue peer's own
    files = UNSAFE[what]()
    head = struct.pack("<3Q", 2, 0, SHARE_FROM_BYTES | SHARED)
    with closing(side.router), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(addresses.path(addresses.workers(side.address))))
        peer.sendall(unix.GREETING)
        for some in (files[:200], files[200:]):
            socket.send_fds(peer, [head[:1] if len(files) > 200 else head], some)
        for file in files:
            os.close(file)
        (_, frames), (_, end) = side.next(), side.next()
        assert (frames, end) == ([], None)
        assert open_files() == before


def test_what_was_shared_can_be_written_to_for_oneself_and_leaves_no_descriptor() -> None:
    before = open_files()
    frame = share(memoryview(bytes(range(256)) * (SHARE_FROM_BYTES // 256)))
    assert isinstance(frame, Shared)
    first, second = frame.map(), frame.map()
    del frame
    assert open_files() == before
    first[7] = 99
    assert (first[7], second[7]) == (99, 7)


def test_a_file_that_is_no_socket_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ConnectionLostError, match="File exists"):
        listen(f"ipc://{tmp_path}/notes", "client")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("notes", "mine")]


def test_a_service_that_ends_leaves_the_socket_of_the_next_one(tmp_path: Path) -> None:
    first = listen(f"ipc://{tmp_path}/socket", "client")
    (tmp_path / "socket").unlink()
    second = listen(f"ipc://{tmp_path}/socket", "client")
    first.close()
    assert (tmp_path / "socket").is_socket()
    second.close()


def test_a_socket_file_of_a_service_that_is_gone_is_taken_over_and_no_other(tmp_path: Path) -> None:
    address, path = f"ipc://{tmp_path}/socket", tmp_path / "socket.workers"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    side = Side(address)
    with pytest.raises(ConnectionLostError, match="another service does"):
        listen(address, "worker")
    _, frames = side.next()  # from the peer that checked whether the address is in use
    assert frames is None
    peer, _ = side.join()
    peer.close()
    side.router.close()
    assert list(tmp_path.iterdir()) == []
