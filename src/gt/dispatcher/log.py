"""The instruction log: one JSON object a line, for people (`gt log FILE`) and programs."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from gt import regular
from gt.errors import ConfigError, ProtocolError
from gt.wire import codec
from gt.wire import instructions as wire
from gt.wire.messages import Execute
from gt.wire.text import printable


class Entry(msgspec.Struct, omit_defaults=True):
    """One instruction. `time` in seconds since the epoch; `ins` and `outs` as `id:dtype[size]`; `site` numbers a line."""

    time: float
    session: int
    worker: str
    kind: str
    op: str = ""
    ins: list[str] = []
    outs: list[str] = []
    numbers: list[Any] = []
    site: int = 0
    detail: dict[str, Any] = {}


class InstructionLog:
    """Appends to a file. Keeps the definitions of each session, so every line describes its instruction fully."""

    def __init__(self, path: str) -> None:
        try:
            self._file = regular.appending(path)
        except OSError as error:
            raise ConfigError(f"GT_INSTRUCTION_LOG={path}: {error.strerror}") from None
        self._encode = msgspec.json.Encoder().encode
        self._path = path
        self._broken = False
        self._defined: dict[int, dict[int, wire.Define]] = {}

    def write(self, now: float, worker: str, execute: Execute) -> None:
        """Append what `worker` is told to execute; `now` in seconds since the epoch."""
        try:
            items = codec.unpack(execute.items)
        except ProtocolError:
            return  # the worker refuses it too
        lines = [self._encode(self._entry(now, worker, execute.session, item)) + b"\n" for item in items]
        self._attempt(lambda: self._file.writelines(lines))

    def forget(self, session: int) -> None:
        """Drop the definitions of a session that has ended."""
        self._defined.pop(session, None)

    def _attempt(self, what: Callable[[], None]) -> None:
        """A full disk ends the log, which is said once, but nobody's session."""
        if self._broken:
            return
        try:
            what()
        except OSError as error:
            self._broken = True
            print(f"gt: GT_INSTRUCTION_LOG={self._path}: {error.strerror}; the log ends here", file=sys.stderr, flush=True)

    def _entry(self, now: float, worker: str, session: int, item: wire.Instruction) -> Entry:
        entry = Entry(now, session, worker, type(item).__name__)
        if isinstance(item, int):
            entry.kind, entry.detail = "Free", {"id": item}
        elif isinstance(item, wire.Define):
            self._defined.setdefault(session, {})[item.call] = item
            entry.op, entry.detail = item.op, {"call": item.call}
            entry.ins = [_shape(g) for g in item.ins]
            entry.outs = [_shape(g) for g in item.outs if g is not None]
        elif isinstance(item, wire.Op):
            define = self._defined.get(session, {}).get(item.call)
            ins = define.ins if define else []
            outs = [g for g in define.outs if g is not None] if define else []
            entry.op, entry.site = define.op if define else f"call {item.call}", item.site
            entry.ins, entry.outs = _named(item.args[: len(ins)], ins), _named(item.outs, outs)
            entry.numbers = list(item.args[len(ins) :])
        elif isinstance(item, wire.Query):
            entry.op, entry.site = item.op, item.site
            entry.ins = [f"{i}:{_shape(g)}" for i, g in item.ins]
            entry.detail = {"request": item.request, "out": item.out}
        elif isinstance(item, wire.COLLECTIVES):
            entry.ins = [f"{part.id}:{part.dtype}[{part.elements}]" for part in item.parts]
            entry.outs = [f"{part.out}:{part.dtype}" for part in item.parts if part.out]
            entry.detail = {name: value for name, value in _fields(item).items() if name != "parts"}
        else:
            if isinstance(item, wire.Forget):
                for call in item.calls:
                    self._defined.get(session, {}).pop(call, None)
            entry.detail = _fields(item)
        return entry

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._attempt(self._file.flush)

    def close(self) -> None:
        """Close the file."""
        self._attempt(self._file.close)


def _shape(geometry: wire.Geometry) -> str:
    return f"{geometry.dtype}{list(geometry.size)}"


def _named(ids: Sequence[wire.Scalar], shapes: list[wire.Geometry]) -> list[str]:
    padded = [*map(_shape, shapes), *[""] * max(0, len(ids) - len(shapes))]
    return [f"{i}:{shape}" for i, shape in zip(ids, padded, strict=False)]


def _fields(item: msgspec.Struct) -> dict[str, Any]:
    """The fields of a plain instruction, geometries in short form."""
    found: dict[str, Any] = {}
    for name in item.__struct_fields__:
        value = getattr(item, name)
        found[name] = _shape(value) if isinstance(value, wire.Geometry) else value
    return found


# -- reading -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """Which entries to show; None matches any. Times in seconds since the epoch."""

    session: int | None = None
    worker: str | None = None
    op: str | None = None
    id: int | None = None
    since: float | None = None
    until: float | None = None

    def matches(self, entry: Entry) -> bool:
        """Whether every field that is given matches."""
        return (
            (self.session is None or entry.session == self.session)
            and (self.worker is None or entry.worker == self.worker)
            and (self.op is None or fnmatch.fnmatch(entry.op or entry.kind, self.op))
            and (self.id is None or self._touches(entry))
            and (self.since is None or entry.time >= self.since)
            and (self.until is None or entry.time <= self.until)
        )

    def _touches(self, entry: Entry) -> bool:
        named = any(x.startswith(f"{self.id}:") for x in (*entry.ins, *entry.outs))
        saved = entry.detail.get("tensors")
        ids = [one[0] for one in saved.values() if isinstance(one, list) and one] if isinstance(saved, dict) else []
        return named or self.id in (entry.detail.get("id"), *ids)


HEAD = b'{"time":'


def read(path: str) -> Iterator[Entry]:
    """The entries of a log. Raises ConfigError naming the line that is not one; a last line that is cut short is skipped."""
    decode = msgspec.json.Decoder(Entry).decode
    with regular.reading(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield decode(line)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                if line.endswith(b"\n") or not (line.startswith(HEAD) or HEAD.startswith(line)):
                    raise ConfigError(f"{path}:{number}: not an entry of an instruction log: {error}") from None


def text(entry: Entry) -> str:
    """One line for people, safe to print although clients and workers chose its words."""
    head = f"{_clock(entry.time)}  s{entry.session}  {entry.worker:<10}  {entry.op or entry.kind:<34}"
    numbers = [str(n) for n in entry.numbers]
    body = f"({', '.join([*entry.ins, *numbers])})" + (f" -> {', '.join(entry.outs)}" if entry.outs else "")
    detail = " ".join(f"{k}={v}" for k, v in entry.detail.items())
    said = f"{'define ' if entry.kind == 'Define' else ''}{body if entry.ins or entry.op else ''}"
    return printable(f"{head} {said} {detail}".rstrip())


def _clock(time: float) -> str:
    try:
        return datetime.fromtimestamp(time).strftime("%H:%M:%S.%f")[:-3]
    except (OSError, OverflowError, ValueError):  # no dispatcher writes such a time
        return f"{time} s"


def _json(entry: Entry) -> str:
    """The line in the file, with JSON's own escapes for invisible characters."""
    line = msgspec.json.encode(entry).decode()
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def show(path: str, wanted: Filter, as_json: bool) -> None:
    """Print the entries that match."""
    for entry in read(path):
        if wanted.matches(entry):
            sys.stdout.write((_json if as_json else text)(entry) + "\n")
