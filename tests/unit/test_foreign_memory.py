"""Sessions that share a worker share its heap: none sees bytes that another freed, nor reaches beyond its storages."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import count

import pytest
import torch

import gt.fakes
from gt.client.kernels import composites, registration, sparse
from gt.wire import codec, messages
from gt.wire import instructions as wire
from gt.worker import zeroing
from gt.worker.checks.call_checks import CallChecks
from gt.worker.execute import Worker, complete
from gt.worker.operators import table
from tests.oracle import unwritten

_request = count(1)


class Fill:
    """Sets the allocator's two switches: fresh memory holds junk, unless GT asks for zeros."""

    def __init__(self) -> None:
        self.zeros = zeroing._zero_fill
        self.junk = ctypes.c_bool.in_dll(zeroing._c10, "FLAGS_caffe2_cpu_allocator_do_junk_fill")
        self.asked = 0
        self.value = False

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "value":
            self.asked += bool(value)
            self.zeros.value = self.junk.value = False  # both at once would abort the process
            (self.zeros if value else self.junk).value = True


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fill]:
    """For its duration, fresh memory holds junk."""
    made = Fill()
    monkeypatch.setattr(zeroing, "_zero_fill", made)
    yield made
    made.zeros.value = made.junk.value = False


@pytest.fixture
def shared() -> Worker:
    """A worker that has had a session before session 2."""
    worker = Worker("cpu")
    run(worker, 1, [wire.Seed(0)])
    return worker


def run(worker: Worker, session: int, items: list[wire.Instruction], frames: list[bytes] = []) -> messages.Done:  # noqa: B006
    done, _ = complete(worker.take(messages.Execute(session, 1, codec.pack(items)), [memoryview(f) for f in frames]))
    return done


def fetch(worker: Worker, id: int, geometry: wire.Geometry, session: int = 2) -> bytes:
    item = wire.Fetch(next(_request), id, geometry)
    done, data = complete(worker.take(messages.Execute(session, 1, codec.pack([item])), []))
    failure = done.answers[0].failure
    assert failure is None, failure
    return bytes(data[0])


def whole_storage(worker: Worker, id: int, session: int = 2) -> bytes:
    size = next(iter(worker.host.sessions[session].memory.storages[id].values())).untyped_storage().nbytes()
    return fetch(worker, id, wire.Geometry((size,), (1,), 0, "uint8"), session)


def floats(*size: int, stride: tuple[int, ...] | None = None, offset: int = 0) -> wire.Geometry:
    return wire.Geometry(size, stride or torch.empty(size, device="meta").stride(), offset, "float32")


def call(
    op: str, args: list[wire.Arg], ins: list[wire.Geometry], outs: list[wire.Geometry | None], **kwargs: wire.Arg
) -> wire.Define:
    return wire.Define(1, op, args, kwargs, ins, outs)


def kind_of(done: messages.Done) -> str:
    """The kind of the failure in the only answer."""
    (answer,) = done.answers
    return answer.failure.kind if answer.failure is not None else ""


ONES = b"\0\0\x80?"
GAPS = floats(3, 2, stride=(4, 1), offset=2)
MAKING = {
    "empty": call("aten::empty.memory_format", [[40]], [], [floats(40)]),
    "empty_strided": call("aten::empty_strided", [[3, 2], [40, 7]], [], [floats(3, 2, stride=(40, 7))]),
    "empty_permuted": call("aten::empty_permuted", [[3, 2], [1, 0]], [], [floats(3, 2, stride=(1, 3))]),
    "empty_like": call("aten::empty_like", [wire.In(0)], [floats(6)], [floats(6)]),
    "new_empty": call("aten::new_empty", [wire.In(0), [50]], [floats(6)], [floats(50)]),
    "new_empty_strided": call("aten::new_empty_strided", [wire.In(0), [5], [9]], [floats(6)], [floats(5, stride=(9,))]),
    "a result with gaps": call("aten::empty.memory_format", [[3, 2]], [], [GAPS]),
}


@pytest.mark.parametrize("how", MAKING)
@pytest.mark.usefixtures("fill")
def test_what_no_operator_wrote_is_zero(shared: Worker, how: str) -> None:
    define = MAKING[how]
    for out in (2, 3):  # the slow path, and the fast one
        args = (1,) if define.ins else ()
        run(shared, 2, [wire.Upload(1, floats(6), 0, 0), define, wire.Op(1, out, args, 0)], [ONES * 6])
        found = whole_storage(shared, out)
        assert len(found) >= 24
        assert found == bytes(len(found))


@pytest.mark.usefixtures("fill")
def test_a_storage_grows_by_zeros(shared: Worker) -> None:
    run(shared, 2, [wire.Upload(i, floats(2), 0, 0) for i in (1, 2, 3)], [ONES * 2])
    assert fetch(shared, 1, floats(100)) == ONES * 2 + bytes(98 * 4)
    assert fetch(shared, 2, wire.Geometry((50,), (2,), 3, "int64")) == bytes(50 * 8)
    double = call("aten::add.Tensor", [wire.In(0), wire.In(0)], [floats(300)], [floats(300)])
    run(shared, 2, [double, wire.Op(1, 9, (3,), 0)])
    assert fetch(shared, 9, floats(300)) == b"\0\0\0@" * 2 + bytes(298 * 4)


@pytest.mark.usefixtures("fill")
def test_what_lies_between_uploaded_elements_is_zero(shared: Worker) -> None:
    run(shared, 2, [wire.Upload(1, GAPS, 0, 0)], [ONES * 6])
    row = [0, 0, 1, 1]
    assert whole_storage(shared, 1) == b"".join(ONES if n else bytes(4) for n in row * 3)


@pytest.mark.usefixtures("fill")
def test_a_storage_ends_where_its_tensor_does(shared: Worker) -> None:
    """`mse_loss` uses memory for every element and returns a number at its start."""
    loss = call("aten::mse_loss", [wire.In(0), wire.In(1)], [floats(500), floats(500)], [floats()])
    run(shared, 2, [wire.Upload(i, floats(500), 0, 0) for i in (1, 2)] + [loss, wire.Op(1, 3, (1, 2), 0)], [ONES * 500])
    query = wire.Query(1, "aten::mse_loss", [wire.In(0), wire.In(1)], {}, [(1, floats(500)), (2, floats(500))], 8, 0)
    run(shared, 2, [query])
    assert whole_storage(shared, 3) == whole_storage(shared, 8) == bytes(4)


LIES = [
    wire.Geometry((2,), (1, 1), 0, "float32"),
    wire.Geometry((-1,), (1,), 0, "float32"),
    wire.Geometry((2,), (-1,), 1, "float32"),
    wire.Geometry((2,), (1,), -1, "float32"),
    wire.Geometry((2**40, 2**40), (0, 0), 0, "float32"),
    wire.Geometry((2**62,), (0,), 0, "float32"),
    wire.Geometry((3,), (2**61,), 0, "float32"),
    wire.Geometry((4,), (1,), 2**61, "float64"),
    wire.Geometry((0, 5), (2**62, 2**62), 2**62, "float32"),
    wire.Geometry((2**63,), (2**63,), 2**63, "float32"),
    wire.Geometry((2,), (1,), 0, "float32", conj=True),
    wire.Geometry((2,), (1,), 0, "Tensor"),
]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_geometry_that_no_tensor_has_is_refused_wherever_it_stands(lie: wire.Geometry) -> None:
    worker = Worker("cpu")
    requests: list[wire.Instruction] = [
        wire.Fetch(1, 1, lie),
        wire.Query(2, "aten::neg", [wire.In(0)], {}, [(1, lie)], 50, 0),
        wire.SaveFile(3, "/nowhere/x.safetensors", {"x": (1, lie)}, {}),
    ]
    for item in requests:
        assert kind_of(run(worker, 2, [wire.Upload(1, floats(2), 0, 0), item], [ONES * 2])) == "ProtocolError"
    spoiled: list[list[wire.Instruction]] = [
        [wire.Upload(7, lie, 0, 0)],
        [call("aten::neg", [wire.In(0)], [lie], [floats(2)]), wire.Op(1, 7, (1,), 0)],
        [call("aten::neg", [wire.In(0)], [floats(2)], [lie]), wire.Op(1, 7, (1,), 0)],
    ]
    for items in spoiled:
        assert kind_of(run(worker, 2, [*items, wire.Fetch(5, 7, floats(2))], [ONES * 2])) == "ProtocolError"
    assert fetch(worker, 1, floats(2)) == ONES * 2


VIEWS = [
    ("aten::as_strided", [[100], [1], 0]),
    ("aten::_reshape_alias", [[100], [1]]),
    ("aten::_unsafe_view", [[2]]),
    ("aten::view", [[2]]),
    ("aten::view.dtype", [wire.Dtype("uint8")]),
    ("aten::expand", [[5, 2]]),
    ("aten::unfold", [0, 1, 1]),
    ("aten::slice.Tensor", [0, 0, 2]),
    ("aten::narrow", [0, 0, 1]),
    ("aten::detach", []),
    ("aten::alias", []),
    ("aten::unsafe_split.Tensor", [1]),
    ("aten::resize_", [[100]]),
    ("aten::as_strided_", [[100], [1]]),
    ("aten::set_", []),
]


@pytest.mark.parametrize(("name", "arguments"), VIEWS, ids=[name for name, _ in VIEWS])
def test_views_are_geometries_and_no_operators(name: str, arguments: list[wire.Arg]) -> None:
    query = wire.Query(1, name, [wire.In(0), *arguments], {}, [(1, floats(2))], 50, 0)
    done = run(Worker("cpu"), 2, [wire.Upload(1, floats(2), 0, 0), query], [ONES * 2])
    assert kind_of(done) == "NotImplementedError"


def sent_by_clients() -> set[str]:
    own = {"copy_", "_to_copy", "linear", "linear_backward", "one_hot", "_pack_padded_sequence", "_trilinear"}
    own |= {"_fused_moving_avg_obs_fq_helper", "linalg_pinv.atol_rtol_tensor", "native_group_norm_backward"}
    made = {short for short, _ in registration._kernels()} | {
        op.name().removeprefix("aten::") for op in composites.COMPOSITES
    }
    return own | made | {name for kind in sparse.CONTAINED for name in sparse.kernels(kind, registration._asking)}


def is_taken(short: str) -> bool:
    try:
        table.find(f"aten::{short}", torch.device("cpu"))
    except NotImplementedError:
        return False
    return True


def test_the_op_table_is_what_clients_send() -> None:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = {n.removeprefix("aten::") for n in torch._C._dispatch_get_all_op_names() if n.startswith("aten::")}
    taken = {n for n in names if is_taken(n)}
    runs = {n for n in taken if has(f"aten::{n}", "CPU")}
    assert sorted(runs - sent_by_clients()) == []
    refused = {f"aten::{n}" for n in sent_by_clients() - taken}
    assert [
        n for n in refused if n.partition(".")[0] not in table.REFUSED and not n.startswith(table.REFUSED_PREFIXES)
    ] == []


def test_a_call_that_is_refused_is_no_call_that_was_made() -> None:
    items: list[wire.Instruction] = [
        wire.Upload(1, floats(2), 0, 0),
        call("aten::resize_", [wire.In(0), [100]], [floats(2)], []),
        wire.Op(1, (), (1,), 0),
        wire.Fetch(1, 1, floats(2)),
    ]
    assert kind_of(run(Worker("cpu"), 2, items, [ONES * 2])) == "NotImplementedError"


# -- inputs that kernels do not check; none runs here -------------------------------------------------------------------

POOL = "aten::max_pool2d_with_indices_backward"
IMAGE, SMALLER = floats(2, 3, 4, 4), floats(2, 3, 2, 2)
PLACES = wire.Geometry(SMALLER.size, SMALLER.stride, 0, "int64")


def pooled(*ins: wire.Geometry) -> CallChecks:
    args: list[wire.Arg] = [wire.In(0), wire.In(1), [2, 2], [2, 2], [0, 0], [1, 1], False, wire.In(2)]
    return CallChecks(wire.Define(1, POOL, args, {}, list(ins), []), torch.ops.aten.max_pool2d_with_indices_backward.default)


def test_sizes_that_a_kernel_takes_on_trust_are_checked() -> None:
    assert pooled(SMALLER, IMAGE, PLACES)
    for wrong in (floats(3, 3, 2, 2), floats(2, 2)):
        with pytest.raises(RuntimeError, match=POOL):
            pooled(wrong, IMAGE, PLACES)


def test_operands_whose_elements_share_memory_are_copied_for_kernels_that_do_not_look_at_strides() -> None:
    expanded = floats(2, 3, 2, 2, stride=(0, 0, 0, 0))
    assert [pooled(grad, IMAGE, PLACES).overlapping for grad in (SMALLER, expanded)] == [[], [0]]
    maps = [torch.ones(1, 2, 4, 4).to(device).requires_grad_() for device in ("cpu", "remote")]
    for x in maps:
        torch.nn.functional.max_pool2d(
            x * torch.arange(4, device=x.device), 2
        ).sum().backward()  # its gradient is an expanded number
    assert torch.equal(maps[1].grad.cpu(), maps[0].grad)
    parameter, gradient = torch.ones(4, device="remote").expand(2, 4), torch.ones(2, 4, device="remote")
    with pytest.raises(RuntimeError, match="share memory"):
        torch._fused_sgd_(
            [parameter], [gradient], [], weight_decay=0.0, momentum=0.0, lr=1.0, dampening=0.0, nesterov=False,
            maximize=False, is_first_step=False,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["bilinear", "bicubic", "lanczos"])
def test_a_scale_that_a_kernel_takes_on_trust_is_checked(kind: str) -> None:
    def scaled(scale: float | wire.Number) -> CallChecks:
        define = wire.Define(1, f"aten::_upsample_{kind}2d_aa", [wire.In(0), [2, 2], False, scale, None], {}, [IMAGE], [])
        return CallChecks(define, getattr(torch.ops.aten, f"_upsample_{kind}2d_aa").default)

    assert scaled(0.5)
    for wrong in (0.3, -0.5, 1e-9, float("inf"), float("nan"), wire.Number(0)):
        with pytest.raises(RuntimeError, match=kind):
            scaled(wrong)


def test_indices_that_a_kernel_takes_on_trust_are_checked() -> None:
    call, grad, image = pooled(SMALLER, IMAGE, PLACES), torch.zeros(SMALLER.size), torch.zeros(IMAGE.size)
    call.check_elements([grad, image, torch.full(SMALLER.size, 15)])
    for place in (16, -1, 2**40):
        with pytest.raises(IndexError, match=POOL):
            call.check_elements([grad, image, torch.full(SMALLER.size, place)])


# -- a single session pays nothing ---------------------------------------------------------------------------------------


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    x = torch.randn(8, 3, 8, 8).to("remote")
    loss = torch.nn.functional.cross_entropy(model(x), torch.zeros(8, dtype=torch.int64).to("remote"))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    loss.item()


def zeroed_in_steady_steps() -> int:
    nn = torch.nn
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(2),
        nn.Linear(9, 8),
        nn.LayerNorm(8),
    ]
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    model = nn.Sequential(*layers, attention, nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 5)).to("remote")
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    before = gt.debug.stats().zero_fills
    for _ in range(2):
        step(model, optimizer)
    return gt.debug.stats().zero_fills - before


def test_a_steady_step_fills_nothing_whether_a_session_is_the_first_or_follows_others(fill: Fill) -> None:
    system = gt.fakes.System()
    with system:
        assert zeroed_in_steady_steps() == 0
        torch.empty(4, device="remote").cpu()
        assert gt.debug.stats().zero_fills == 0
        assert not fill.asked
    with system:
        assert zeroed_in_steady_steps() == 0
        torch.empty(4, device="remote").cpu()
        assert gt.debug.stats().zero_fills == 1
        assert fill.asked == 1


# -- the list of operators that write everything -------------------------------------------------------------------------

ALWAYS = {"empty_like", "nn.functional.mse_loss", "nn.functional.batch_norm", "native_layer_norm", "mm", "softmax"}


def test_what_is_said_to_write_every_byte_does() -> None:
    """A sample of PyTorch's operator database; for all of it run `python -m tests.oracle.unwritten`."""
    chosen = (e for i, e in enumerate(unwritten.entries()) if i % 40 == 0 or e.name in ALWAYS)
    observed = unwritten.check(chosen, (torch.float32,), samples=3)
    assert "aten::empty_like" in observed.unwritten
    assert sorted(filter(unwritten.fills, observed.unwritten)) == []


def test_what_travels_whole_writes_every_byte() -> None:
    assert unwritten.wholes() == []
