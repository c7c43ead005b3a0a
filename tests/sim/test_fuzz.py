"""Messages that GT's clients never send: refused or dropped, and counted; other sessions never notice."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gt.fakes import System
from gt.wire import codec, messages
from gt.wire import instructions as wire
from tests.sim.clients import SCALAR, Client, check

INTS = [0, 1, 2, 3, 4, 7, -1, -2, 1 << 20, 1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1]
SIZES = [0, 1, 2, 3, 5, -1, 1 << 40, 1 << 62]
DTYPES = ["float32", "int64", "bool", "complex64", "bfloat16", "quint8", "bits8", "float4_e2m1fn_x2", "nonsense", ""]
OPS = [
    "aten::add.Tensor", "aten::add_.Tensor", "aten::mm", "aten::cat", "aten::index_select", "aten::index.Tensor",
    "aten::embedding", "aten::empty.memory_format", "aten::resize_", "aten::fill_.Scalar", "aten::copy_", "aten::randn",
    "aten::as_strided", "aten::set_.source_Tensor", "aten::set.source_Tensor", "aten::from_file", "aten::from_file.out",
    "aten::record_stream", "aten::_local_scalar_dense", "aten::nonzero", "aten::linalg_svd", "aten::to.device",
    "aten::to_sparse", "aten::_pin_memory.out", "aten::_print", "aten::_assert_async", "gt::backward", "gt::nothing",
    "aten::linear_backward", "aten::histc", "aten::uniform_", "os.system", "aten::", "",
]  # fmt: skip


class Junk:
    """Generates instructions that are well-typed but make no sense."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def geometry(self) -> wire.Geometry:
        if self.pick.random() < 0.4:
            return wire.Geometry((2, 3), (3, 1), 0, "float32")
        dims = self.pick.randrange(4)
        sizes = tuple(self.pick.choice(SIZES) for _ in range(dims))
        strides = tuple(self.pick.choice(INTS) for _ in range(dims + (self.pick.random() < 0.1)))
        odd = self.pick.random() < 0.1
        return wire.Geometry(sizes, strides, self.pick.choice([0, 0, 1, *INTS]), self.pick.choice(DTYPES), odd, odd)

    def number(self) -> Any:
        return self.pick.choice([*INTS, 0.5, float("nan"), float("inf"), True, wire.Complex(1.0, -1.0)])

    def arg(self, deep: bool = True) -> wire.Arg:
        kinds: list[Any] = [
            wire.In(self.pick.choice([0, 0, 0, 1, 99, -1])), wire.Number(self.pick.choice([0, 1, -5])), None, "cpu", "meta",
            "/etc/passwd", True, self.pick.choice(SIZES), 0.5, wire.Dtype(self.pick.choice(DTYPES)), wire.Layout("jagged"),
            wire.MemoryFormat("none"), wire.Device(), wire.GeneratorIn(self.pick.choice([0, 7, -1])), wire.Complex(0.0, 1.0),
        ]  # fmt: skip
        if deep and self.pick.random() < 0.3:
            return [self.arg(False) for _ in range(self.pick.randrange(3))]  # type: ignore[misc]
        return self.pick.choice(kinds)  # type: ignore[no-any-return]

    def some(self, make: Any, most: int = 3) -> list[Any]:
        return [make() for _ in range(self.pick.randrange(most + 1))]

    def id(self) -> int:
        return self.pick.choice([1, 2, 3, 4, 5, 77, -1, 1 << 40, 1 << 63])

    def kwargs(self) -> dict[str, wire.Arg]:
        names = ("dtype", "device", "out", "generator", "layout", "value", "nonsense")
        return {self.pick.choice(names): self.arg() for _ in range(self.pick.choice([0, 0, 1, 2]))}

    def instruction(self) -> wire.Instruction:
        pick, call = self.pick, self.pick.randrange(6)
        op, shapes = pick.choice(OPS), self.some(self.geometry)
        requires_grad = tuple(self.some(lambda: pick.choice([0, 1, -1, 99]), 1)) if pick.random() < 0.2 else ()
        path = pick.choice(["/etc/passwd", "/nowhere/x", "", "\0", "/dev/null", "../../etc/passwd"])
        dtype = pick.choice(["float32", "float64", "int64", "nonsense"])
        request, outs = pick.randrange(1000), self.some(self.geometry)
        makers: list[Any] = [
            lambda: wire.Define(
                call, op, self.some(self.arg), self.kwargs(), shapes, outs, requires_grad, pick.random() < 0.5, dtype
            ),
            lambda: wire.Op(
                call, tuple(self.some(self.id)), [*self.some(self.id), *self.some(self.number)], pick.choice(INTS)
            ),
            lambda: wire.Op(call, self.id(), (*(self.id() for _ in shapes), self.number()), 0),
            lambda: wire.Query(request, op, self.some(self.arg), {}, [(self.id(), g) for g in shapes], self.id(), 0, dtype),
            lambda: wire.Upload(self.id(), self.geometry(), pick.choice([0, 0, 1, -1, 99]), 0),
            lambda: wire.Fetch(request, self.id(), self.geometry()),
            self.id,
            lambda: wire.Forget([call]),
            lambda: wire.Scope("\0"),
            lambda: wire.LoadFile(self.id(), path, "w", self.geometry(), 0),
            lambda: wire.SaveFile(request, path, {"w": (self.id(), self.geometry())}, {}),
            lambda: wire.Seed(pick.choice(INTS)),
            lambda: wire.GetRandomState(request),
            lambda: wire.SetRandomState(pick.choice([0, -1, 50])),
            lambda: wire.Synchronize(request),
            lambda: wire.Stats(request),
        ]
        return pick.choice(makers[:4] * 3 + makers)()  # type: ignore[no-any-return]

    def frame(self) -> bytes:
        """Bytes that are a message, almost one, or not one."""
        pick = self.pick
        good = codec.encode(messages.Run(pick.choice(INTS), codec.pack([self.instruction()]), pick.choice([0, 1, -1])))
        bad = bytearray(good)
        for _ in range(pick.randrange(1, 4)):
            bad[pick.randrange(len(bad))] = pick.randrange(256)
        choices = (bytes(bad), good[: pick.randrange(len(good))], pick.randbytes(pick.randrange(40)), b"\x91" * 5000, good)
        return pick.choice(choices)


@pytest.mark.parametrize("seed", range(6))
def test_nonsense_harms_nobody_else(seed: int) -> None:
    junk = Junk(seed)
    pick = junk.pick
    system = System(workers=1, worker_batch_size=pick.choice([1, 5, 512]))
    for worker in system.workers.values():
        worker.host.data_dirs = ()
    good, bad = Client(system), Client(system)
    good.start(5)
    for _ in range(250):
        if pick.random() < 0.3:
            system.clients[bad.transport.peer].send([junk.frame() for _ in range(pick.randrange(1, 3))])
        else:
            bad.run(junk.some(junk.instruction, 12), [b"", bytes(24)][: pick.randrange(3)])
        good.add(1, pick.randrange(5))
        while system.step():
            check(system)
        bad.received()
        if bad.seq % 10 == 0:
            assert good.fetch() == good.value
        session = system.dispatcher.state.sessions[system.dispatcher.state.clients[bad.transport.peer]]
        if session.seq > 1 << 20:  # after so large a number, its own stream cannot continue
            bad.transport.close()
            bad = Client(system)
    assert good.fetch() == good.value
    assert system.dispatcher.stats().malformed > 20


def test_a_session_that_names_anothers_ids_finds_nothing() -> None:
    system = System()
    good, bad = Client(system), Client(system)
    good.start(5)
    bad.run([wire.Fetch(1, 1, SCALAR), 1, wire.Forget([1, 2]), wire.Op(1, 1, (1, 3), 0), wire.Fetch(2, 1, SCALAR)])
    assert [a.failure is not None for a in bad.answers()] == [True, True]
    assert good.fetch() == 5


def test_files_outside_the_folders_are_refused_also_by_a_link(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    system = System()
    system.workers[b"worker0"].host.data_dirs = (str(inside),)
    client = Client(system)
    client.start(1)
    for request, path in enumerate([outside / "x", inside / ".." / "out" / "x", inside / "link" / "x", Path("/etc/x")]):
        client.run([wire.SaveFile(request, str(path), {"w": (1, SCALAR)}, {}), wire.LoadFile(9, str(path), "w", SCALAR, 0)])
    client.run([wire.SaveFile(50, str(inside / "x"), {"w": (1, SCALAR)}, {})])
    kinds = [a.failure.kind if a.failure else None for a in client.answers()]
    assert kinds == ["PermissionError"] * 4 + [None]
    assert [p.name for p in tmp_path.rglob("*x")] == ["x"]


@pytest.mark.parametrize("op", ["aten::from_file", "aten::from_file.out", "aten::set_.source_Tensor", "aten::record_stream"])
def test_operators_that_reach_beyond_the_session_are_refused(op: str, tmp_path: Path) -> None:
    target = tmp_path / "file"
    system = System()
    client = Client(system)
    client.start(1)
    args: list[wire.Arg] = [str(target), True, 8]
    client.run([wire.Query(1, op, args, {"out": wire.In(0)} if op.endswith("out") else {}, [(1, SCALAR)], 50, 0)])
    (answer,) = client.answers()
    assert answer.failure is not None
    assert answer.failure.kind == "NotImplementedError"
    assert not target.exists()


def test_the_default_dtype_of_one_session_is_not_anothers() -> None:
    """The dtype of an int divided by an int depends on the session, even after the call has been verified."""
    system = System()
    clients = {dtype: Client(system) for dtype in ("float32", "float64", "bfloat16")}
    for _ in range(3):
        for dtype, client in clients.items():
            out = wire.Geometry((), (), 0, dtype)
            divide = wire.Define(
                3, "aten::div.Tensor", [wire.In(0), wire.In(1)], {}, [SCALAR, SCALAR], [out], default_dtype=dtype
            )
            client.start(3)
            items = [divide] if client.seq < 3 else []
            client.run([*items, wire.Op(3, 50, (1, 1), 0), wire.Fetch(client.seq, 50, out), 50])
            (answer,) = client.answers()
            assert answer.failure is None, answer.failure
            assert len(client.frames[-1][0]) == {"float32": 4, "float64": 8, "bfloat16": 2}[dtype]


def test_failures_that_nobody_asks_for_do_not_pile_up() -> None:
    system = System()
    client = Client(system)
    client.start(1)
    client.run([wire.Op(1, i, (77, 1), 0) for i in range(100, 5000)])
    system.settle()
    assert len(system.workers[b"worker0"].host.sessions[1].failures) <= 64
    client.run([wire.Synchronize(1), wire.Synchronize(2), wire.Stats(3)])
    first, second, stats = client.answers()
    assert first.failure is not None
    assert second.failure is None
    assert stats.stats[0].errors == 4900


def test_a_batch_that_is_no_list_is_counted() -> None:
    system = System()
    client = Client(system)
    client.send(messages.Run(1, msgspec.Raw(b"\x01")))
    system.settle()
    assert system.dispatcher.stats().malformed == 1
