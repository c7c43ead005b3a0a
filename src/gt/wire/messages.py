"""The messages between clients, dispatcher and workers. Each is one msgpack frame followed by raw frames of bytes."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from gt.placement.layout import Sharding
from gt.wire.instructions import Geometry, Scalar

PROTOCOL = 11


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """An error on its way to the user: `kind` is the exception's class name, `site` the line's number (0: unknown)."""

    kind: str
    message: str
    op: str = ""
    site: int = 0


class Warned(msgspec.Struct, array_like=True, frozen=True):
    """A warning on its way to the user: `kind` is its class name, `site` the line's number (0: unknown)."""

    kind: str
    message: str
    site: int


class WorkerInfo(msgspec.Struct, frozen=True):
    """A worker's description of itself. `device` as in `torch.device`, memory in bytes.

    `data_dirs`: the folders of its host that it may read and write (None: all that its user may).
    """

    name: str
    pid: int
    host: str
    device: str
    torch: str
    memory_bytes: int
    data_dirs: list[str] | None = []


class WorkerStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker counts: for the session that asks, for all its sessions, and for its process and device.

    `storages`, `tensor_bytes`: what the session holds now; `peak_tensor_bytes`: the most it held at any time (results of
    less than 64 KiB count only while they exist when asked). `operations`: the operations the session has run, `errors`:
    those that failed, `definitions`: the calls it has defined.

    `sessions`: how many the worker has. `zero_fills`: how often it filled memory with zeros, lest a session see what another
    left there. `threads`: of PyTorch. `peak_rss_bytes`: the most memory that its process had. `device_bytes`,
    `device_peak_bytes`: what PyTorch has allocated on the device for all sessions, now and at most (None: on a CPU).
    `free_bytes`, `total_bytes`: of the device's memory, what new tensors can have now, and all; on a CPU of the memory of
    the machine, or of its control group, which its workers share.
    """

    storages: int
    tensor_bytes: int
    peak_tensor_bytes: int
    operations: int
    errors: int
    definitions: int
    sessions: int
    zero_fills: int
    threads: int
    peak_rss_bytes: int
    device_bytes: int | None = None
    device_peak_bytes: int | None = None
    free_bytes: int = 0
    total_bytes: int = 0


# -- client -> dispatcher ------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first message of a client. `sharding`: how its tensors are placed on several workers; None: on one."""

    protocol: int
    pid: int
    host: str
    sharding: Sharding | None = None


class Run(msgspec.Struct, frozen=True, tag="run"):
    """A batch of instructions, packed (`codec.pack`); raw frames: those of its uploads, in order.

    `seq` counts a session's batches from 1, `epoch` how often the session was lost (`SessionLost`): batches that the client
    sent before it heard of a loss are not run.
    """

    seq: int
    items: msgspec.Raw
    epoch: int = 0


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """The client ends its session."""


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Asks for a `Pong`; sent in either direction."""


# -- dispatcher -> client ------------------------------------------------------------------------------------------------


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The session is open on `workers`, or goes on there. `credit` is how many batches may be underway.

    There is one worker, or with sharding one for each rank of the mesh, in order. `all_workers`: how many the service has.
    """

    session: int
    workers: tuple[WorkerInfo, ...]
    credit: int
    all_workers: int = 1


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """The dispatcher will not serve this peer."""

    reason: str


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of one request. `frame` is the raw frame with the bytes asked for (-1: there are none).

    `outs` are the geometries of a query's tensor results (None: undefined), `values` its other results in order, and
    `pattern` tells them apart: "t" a tensor, "v" a value, "[" and "]" around a list, "s" a sparse tensor. For a sparse
    tensor the values give layout, number of dims, sizes, and whether it is coalesced; its two or three parts follow, each
    "t", or "o" if it is an operand of the call, whose index is the value. `stats`: of each worker of the session, in order.
    """

    request: int
    frame: int = -1
    failure: Failure | None = None
    outs: list[Geometry | None] = []
    values: list[Scalar | str | None] = []
    pattern: str = ""
    stats: list[WorkerStats] = []


class Recoverable(msgspec.Struct, array_like=True, frozen=True):
    """A storage that a failed call was to write, as one of a session's workers has it.

    `call`: which instruction that was, by its message and its place in that. `content`: a digest of the bytes; empty where
    the call had not begun, since what it reads had failed before.
    """

    id: int
    call: tuple[int, int]
    content: bytes = b""


class Done(msgspec.Struct, frozen=True, tag="done", omit_defaults=True):
    """A slice of a session's batches has been executed: `seq` is the batch that it completes, 0 if it completes none.

    `answers` are those to the requests among its instructions. `malformed`: it was not a list of instructions and was not
    run. `warnings`: PyTorch's warnings from calls that ran for the first time. `recoverable`: in a session of several
    workers, what could be used again after the failures that the answers tell, if all of them say the same.
    """

    session: int
    seq: int
    answers: list[Answer] = []
    malformed: bool = False
    warnings: list[Warned] = []
    recoverable: list[Recoverable] = []


class Late(msgspec.Struct, frozen=True, tag="late"):
    """The second answer to a request that was done in the background; it comes at any time after the first."""

    session: int
    answer: Answer


class SessionLost(msgspec.Struct, frozen=True, tag="session_lost"):
    """The worker that held this session's tensors is gone; batches sent from now on belong to `epoch`."""

    reason: str
    epoch: int


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The answer to a `Ping`."""


# -- dispatcher <-> worker -----------------------------------------------------------------------------------------------


class Register(msgspec.Struct, frozen=True, tag="register"):
    """The first message of a worker."""

    protocol: int
    info: WorkerInfo


class Registered(msgspec.Struct, frozen=True, tag="registered"):
    """The worker belongs to the service from now on."""


class Execute(msgspec.Struct, frozen=True, tag="execute"):
    """Instructions of one session, packed: a batch or a part of one. `seq` is reported back by `Done`."""

    session: int
    seq: int
    items: msgspec.Raw


class Join(msgspec.Struct, frozen=True, tag="join"):
    """A session of several workers begins: this one is `rank` of a mesh of `sizes`.

    `meeting`: how the paths of the files begin by which the workers find each other, in a folder private to the service.
    """

    session: int
    rank: int
    sizes: tuple[int, ...]
    meeting: str


class EndSession(msgspec.Struct, frozen=True, tag="end_session"):
    """The session is over: free all that it holds."""

    session: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """The service is shutting down."""


FromClient: TypeAlias = Hello | Run | Goodbye | Ping | Pong | Register
ToClient: TypeAlias = Welcome | Rejected | Done | Late | SessionLost | Ping | Pong
FromWorker: TypeAlias = Register | Done | Late | Ping | Pong | Hello
"""`Register` at the clients' address and `Hello` at the workers' are mistakes that are answered."""
ToWorker: TypeAlias = Registered | Rejected | Join | Execute | EndSession | Stop | Ping | Pong
