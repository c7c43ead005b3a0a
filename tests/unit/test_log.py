"""The instruction log with rogue peers: it records whatever they send, and escapes terminal control sequences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gt.dispatcher import log
from gt.errors import ConfigError
from gt.wire import codec
from gt.wire import instructions as wire
from gt.wire.messages import Execute
from tests.sim.test_fuzz import Junk

EVIL = "\x1b]0;title\x07\x9b2J\u202e\u2028\x7f\U000e0001"
SCALAR = wire.Geometry((), (), 0, EVIL)
ITEMS: list[wire.Instruction] = [
    wire.Define(1, f"aten::{EVIL}", [], {}, [SCALAR], [SCALAR]),
    wire.Op(1, 2, (1, 3), 0),
    wire.Scope(EVIL),
    wire.LoadFile(2, f"/data/{EVIL}\nx", EVIL, SCALAR, 0),
    wire.SaveFile(3, EVIL, {EVIL: (2, SCALAR)}, {EVIL: EVIL}),
    wire.Query(4, EVIL, [], {}, [(2, SCALAR)], 9, 0),
]
ALL = log.Filter()


@pytest.fixture
def path(tmp_path: Path) -> str:
    made = log.InstructionLog(str(tmp_path / "log"))
    made.write(1.0, EVIL, Execute(1, 1, codec.pack(ITEMS)))
    made.close()
    return str(tmp_path / "log")


@pytest.mark.parametrize("as_json", [False, True])
def test_what_a_terminal_would_obey_is_shown_by_its_escape(
    as_json: bool, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log.show(path, ALL, as_json)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(ITEMS)
    assert all(line.isprintable() for line in shown)
    assert "\\u001b]0;title" in shown[0] if as_json else "\\x1b]0;title" in shown[0]


def test_as_json_it_says_what_stands_in_the_file(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.show(path, ALL, as_json=True)
    written = Path(path).read_text().split("\n")[:-1]
    assert [*map(json.loads, capsys.readouterr().out.splitlines())] == [*map(json.loads, written)]


def test_whatever_a_client_sends_is_written_down(tmp_path: Path) -> None:
    made, junk = log.InstructionLog(str(tmp_path / "log")), Junk(0)
    sent = [junk.some(junk.instruction, 12) for _ in range(300)]
    for number, items in enumerate(sent):
        made.write(float(number), "worker", Execute(number % 3, number, codec.pack(items)))
    made.close()
    assert len([log.text(entry) for entry in log.read(str(tmp_path / "log"))]) == sum(map(len, sent))


@pytest.mark.parametrize(
    "line",
    [
        '{"time":1e300,"session":1,"worker":"w","kind":"Op"}',
        '{"time":-1e300,"session":1,"worker":"w","kind":"Op"}',
        '{"time":1,"session":1,"worker":"w","kind":"SaveFile","detail":{"tensors":7}}',
        '{"time":1,"session":1,"worker":"w","kind":"SaveFile","detail":{"tensors":{"w":7,"v":[]}}}',
    ],
)
def test_lines_that_no_dispatcher_wrote_are_shown_as_they_are(line: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(line + "\n")
    (entry,) = log.read(str(tmp_path / "log"))
    assert log.text(entry).isprintable()
    assert not log.Filter(id=3).matches(entry)


@pytest.mark.parametrize("worker", [b'"\xff"', b"[" * 100_000], ids=["no text", "deep"])
def test_bytes_that_are_no_entry_are_said_to_be_none(worker: bytes, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"time":1,"session":1,"kind":"Op","detail":{"a":' + worker + b"}}\n")
    with pytest.raises(ConfigError, match="not an entry"):
        next(log.read(str(tmp_path / "log")))
