"""The wire format: round trips, bytes that must not change unnoticed, and bytes that are not a message."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gt.errors import ConfigError, ConnectionLostError, ProtocolError
from gt.wire import addresses, codec, messages
from gt.wire import instructions as wire
from gt.wire.transport import connect, listen

GEOMETRY = wire.Geometry((2, 3), (3, 1), 0, "float32")
ITEMS: list[wire.Instruction] = [
    wire.Define(
        1,
        "aten::add.Tensor",
        [
            wire.In(0),
            wire.Number(0),
            [1, None, wire.In(1)],
            wire.Complex(1.0, 2.0),
            wire.Sparse("sparse_coo", (0, 1), (2, 3)),
        ],
        {"dtype": wire.Dtype("float32"), "device": wire.Device(), "memory_format": wire.MemoryFormat("preserve_format")},
        [GEOMETRY],
        [GEOMETRY, None],
    ),
    wire.Op(1, 5, (3, 4, 1.5, 2, True, wire.Complex(0.0, 1.0)), 7),
    wire.Op(1, (), (3,), 0),
    wire.Op(1, (5, 6), (), 7),
    wire.Query(1, "aten::nonzero", [wire.In(0)], {}, [(3, GEOMETRY)], 99, 7),
    wire.Upload(3, GEOMETRY, 0, 7),
    wire.Fetch(2, 3, GEOMETRY),
    7,
    wire.Forget([1]),
    wire.Scope("layers.0"),
    wire.LoadFile(4, "/data/x.safetensors", "w", GEOMETRY, 7),
    wire.SaveFile(3, "/data/y.safetensors", {"w": (4, GEOMETRY)}, {"format": "pt"}, background=True),
    wire.Seed(2**64 - 1),
    wire.GetRandomState(4),
    wire.SetRandomState(0),
    wire.Synchronize(5),
    wire.Stats(6),
    wire.Name(3, GEOMETRY, "layers.0.weight"),
    wire.Argument(3, GEOMETRY, "input_ids"),
    wire.Crossing(3, GEOMETRY, "layers.0", "backward"),
    wire.Gradients([(3, 9)]),
    wire.Phase("end", (3, 9)),
]
PART = wire.Part(3, 8, "float32", 4, 5)
BETWEEN_WORKERS: list[wire.Instruction] = [
    wire.AllReduce(0, "sum", (PART,)),
    wire.ReduceScatter(1, "average", (PART,)),
    wire.AllGather(0, (PART, PART)),
    wire.Cut(0, 3, 4),
    wire.Slice(0, 3, GEOMETRY, 5, 1, 2),
    wire.Once(0, 3, 5),
    wire.Coordinate(0, 128, 5),
    wire.Verdict((3, 4), 5),
    wire.BeginFile(5, "x", {"w": wire.Geometry((2,), (1,), 0, "float32")}, {}, 5),
    wire.WriteTensor(5, "w", 3, wire.Geometry((2,), (1,), 0, "float32")),
    wire.EndFile(1, 5),
    wire.SameGenerator(1),
    wire.Recover((3, 4)),
]
"""What a planner adds, and no client may say."""


def test_every_instruction_survives_the_wire() -> None:
    run = codec.from_client(codec.encode(messages.Run(1, codec.pack(ITEMS))))
    assert codec.unpack_from_client(run.items) == ITEMS  # type: ignore[union-attr]
    assert {type(i) for i in ITEMS} == set(wire.FromClient.__args__)
    assert codec.unpack(codec.pack([*ITEMS, *BETWEEN_WORKERS])) == [*ITEMS, *BETWEEN_WORKERS]
    assert {type(i) for i in (*ITEMS, *BETWEEN_WORKERS)} == set(wire.Instruction.__args__)


@pytest.mark.parametrize("item", BETWEEN_WORKERS, ids=lambda item: type(item).__name__)
def test_what_only_a_planner_says_is_refused_from_a_client(item: wire.Instruction) -> None:
    with pytest.raises(ProtocolError):
        codec.unpack_from_client(codec.pack([item]))


def test_the_bytes_of_protocol_11() -> None:
    assert messages.PROTOCOL == 11
    assert codec.encode(ITEMS[1]).hex() == (
        "95000105960304cb3ff800000000000002c383a474797065a7636f6d706c6578a4726561"
        "6ccb0000000000000000a4696d6167cb3ff000000000000007"
    )
    define = wire.Define(1, "aten::lstm.input", [wire.In(0)], {}, [], [None], (0, 2), True, "float32", (1,), True)
    assert codec.encode(define).hex() == (
        "9c0101b06174656e3a3a6c73746d2e696e7075749182a474797065a2696ea5696e64657800809091c0920002c3a7666c6f617433329101c3"
    )
    info = messages.WorkerInfo("w", 1, "h", "cpu", "2.13", 8)
    assert codec.encode(messages.Welcome(1, (info,), 64, 2)).hex() == (
        "85a474797065a777656c636f6d65a773657373696f6e01a7776f726b6572739187a46e616d"
        "65a177a370696401a4686f7374a168a6646576696365a3637075a5746f726368a4322e3133"
        "ac6d656d6f72795f627974657308a9646174615f6469727390a663726564697440ab616c6c"
        "5f776f726b65727302"
    )
    done = messages.Done(1, 2, warnings=[messages.Warned("UserWarning", "a", 3)])
    assert codec.encode(done).hex() == (
        "84a474797065a4646f6e65a773657373696f6e01a373657102a87761726e696e67739193ab557365725761726e696e67a16103"
    )
    counted = messages.Answer(3, stats=[messages.WorkerStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)])
    assert codec.encode(messages.Done(1, 2, [counted])).hex() == (
        "84a474797065a4646f6e65a773657373696f6e01a373657102a7616e73776572739182a77265717565737403a57374617473"
        "918aa873746f726167657301ac74656e736f725f627974657302b17065616b5f74656e736f725f627974657303aa6f70657261"
        "74696f6e7304a66572726f727305ab646566696e6974696f6e7306a873657373696f6e7307aa7a65726f5f66696c6c7308a7"
        "7468726561647309ae7065616b5f7273735f62797465730a"
    )


def test_no_bytes_but_a_message_are_a_message() -> None:
    pick = random.Random(0)
    good = codec.encode(messages.Run(1, codec.pack(ITEMS)))
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(pick.randrange(1, 4)):
            bad[pick.randrange(len(bad))] = pick.randrange(256)
        cut = bytes(bad[: pick.randrange(len(bad))])
        for frame in (cut, pick.randbytes(pick.randrange(64)), b""):
            with pytest.raises(ProtocolError):
                codec.from_client(frame)
    packed = bytes(codec.pack(ITEMS))
    for length in range(len(packed)):
        with pytest.raises(ProtocolError):
            codec.unpack(packed[:length])


@pytest.mark.parametrize("length", [0, 1, 15, 16, 70_000])
def test_the_length_of_a_batch_is_read_from_its_head(length: int) -> None:
    assert codec.count(codec.pack([wire.Synchronize(1)] * length)) == length
    with pytest.raises(ProtocolError):
        codec.count(msgspec.Raw(b"\xdc\x00"))


def test_a_message_of_another_side_is_no_message() -> None:
    with pytest.raises(ProtocolError):
        codec.from_client(codec.encode(messages.Stop()))


def test_a_deep_nest_is_no_message() -> None:
    with pytest.raises(ProtocolError):
        codec.from_client(b"\x91" * 100_000)


FORMS = "write tcp://HOST:PORT"
NO_ADDRESSES = {
    **dict.fromkeys(["", "localhost:1", "http://a:1", "7000", "TCP://127.0.0.1:1", " tcp://127.0.0.1:1"], FORMS),
    **dict.fromkeys(["tcp://", "tcp://host", "tcp://host:", "tcp://:1", "tcp://host:x", "tcp://host:1:2"], FORMS),
    **dict.fromkeys(["tcp://host:0", "tcp://host:65535", "tcp://host:-1", "tcp://host:99999999", "tcp://host:1.5"], FORMS),
    **dict.fromkeys(["tcp://host:7000/", "tcp://host:7000/x", "tcp://host:7000?x", "tcp://host:7000#x"], FORMS),
    **dict.fromkeys(
        ["tcp://user@host:1", "tcp://[::1]:7000", "tcp://ho st:1", "tcp://host:1\n", "tcp://host:\u0667"], FORMS
    ),
    **dict.fromkeys(["ipc://", "ipc:///", "ipc:///tmp/a\0b", "ipc:///tmp/\x1b[2J", "ipc:/tmp/x"], FORMS),
    **dict.fromkeys(["ipc://socket", "ipc://../socket", "ipc://~/socket"], f"write ipc://{os.getcwd()}/"),
    "ipc:///" + "x" * 200: "at most 98 bytes",
}


def test_the_longest_path_that_is_an_address_can_be_served(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    address = f"ipc://{tmp_path}/"
    address += "x" * (addresses.MAX_PATH_BYTES - len(os.fsencode(addresses.path(address))) - 1)
    for role in ("client", "worker"):
        listen(address, role).close()


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address_is_said_so_in_a_line(address: str) -> None:
    for check in (addresses.check, addresses.check_private, lambda given: connect(given, "worker", 0.0)):
        with pytest.raises(ConfigError) as raised:
            check(address)
        assert NO_ADDRESSES[address] in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("address", [None, 7000, b"tcp://127.0.0.1:7000"])
def test_what_is_no_text_is_no_address(address: Any) -> None:
    with pytest.raises(ConfigError, match=FORMS):
        addresses.check(address)


@pytest.mark.parametrize("address", ["tcp://a-b.c_d:1", "tcp://127.0.0.1:65534", "ipc:///a b/\u00e9", "ipc:///" + "x" * 97])
def test_what_is_an_address_is_one(address: str) -> None:
    addresses.check(address)


def test_a_name_that_no_host_has_is_an_error_that_says_what_was_tried() -> None:
    for host in ("a..b", "x" * 100):
        with pytest.raises(ConnectionLostError, match="tried to connect"):
            connect(f"tcp://{host}:1", "client", 1.0)


def test_workers_connect_beside_the_clients() -> None:
    assert addresses.workers("tcp://127.0.0.1:7000") == "tcp://127.0.0.1:7001"
    assert addresses.workers("ipc:///run/gt/s") == "ipc:///run/gt/s.workers"
