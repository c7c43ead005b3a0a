"""The instruction set, all of it on one page: what calls are described with, what a client asks of a worker, the marks that
sharding goes by, and what passes between the workers of one session.

A stream of instructions belongs to one session and is executed in order. Tensors are named by *storage ids*, chosen by the
client and private to its session; an operand is a storage seen through a `Geometry`. An operator call is described once, by
`Define`, and from then on costs one small `Op` that names the definition, the storages and the numbers that vary.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Geometry(msgspec.Struct, array_like=True, frozen=True):
    """A tensor's layout in its storage: sizes and strides in elements, offset in elements, dtype as in `torch.<dtype>`."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: str
    conj: bool = False
    neg: bool = False


# -- the template of a call: the parts that never vary -------------------------------------------------------------------


class In(msgspec.Struct, frozen=True, tag="in"):
    """The n-th operand (an index into `Op.args` and `Define.ins`)."""

    index: int


class Number(msgspec.Struct, frozen=True, tag="number"):
    """The n-th number that varies from call to call (an index into the part of `Op.args` after its operands)."""

    index: int


class Dtype(msgspec.Struct, frozen=True, tag="dtype"):
    """A dtype, as in `torch.<name>`."""

    name: str


class Layout(msgspec.Struct, frozen=True, tag="layout"):
    """A layout, as in `torch.<name>`."""

    name: str


class MemoryFormat(msgspec.Struct, frozen=True, tag="memory_format"):
    """A memory format, as in `torch.<name>`."""

    name: str


class Device(msgspec.Struct, frozen=True, tag="device"):
    """The device of the worker that executes the call."""


class GeneratorIn(msgspec.Struct, frozen=True, tag="generator"):
    """A generator whose state is operand n (uint8); the call reads it and leaves the advanced state there."""

    index: int


class Sparse(msgspec.Struct, frozen=True, tag="sparse"):
    """A tensor of a sparse layout (`sparse_coo`, `sparse_csr`, ...), assembled from operands.

    `parts` are their indices: those of its indices and values, or for a compressed layout of the compressed indices, the
    plain indices and the values.
    """

    layout: str
    parts: tuple[int, ...]
    size: tuple[int, ...]
    coalesced: bool = False


class Complex(msgspec.Struct, frozen=True, tag="complex"):
    """A complex number; msgpack has none."""

    real: float
    imag: float


Scalar: TypeAlias = bool | int | float | Complex
Plain: TypeAlias = (
    None | bool | int | float | str | In | Number | Dtype | Layout | MemoryFormat | Device | GeneratorIn | Sparse | Complex
)
Arg: TypeAlias = Plain | list[Plain]


# -- what a client asks of a worker --------------------------------------------------------------------------------------


class Define(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Describe call number `call` of this session.

    `op` is an ATen overload (`aten::mul.Tensor`) or one of GT's own (`gt::...`), looked up in the op table.
    `ins` holds the geometry of every operand, `outs` that of every result; None stands for an undefined result.
    `requires_grad` lists the operands that require grad, and `grad_mode` says whether grad mode is enabled. Both are given
    for composites that are sent undecomposed, since some kernels depend on them; if both are set, the last result is an
    opaque handle on what backward needs. `default_dtype` is the client's; it decides the dtype of an int divided by an int.
    `writes` lists the operands that the call writes, and `draws` says whether it draws from the session's generator:
    sharding goes by them, a worker by its own schemas.
    """

    call: int
    op: str
    args: list[Arg]
    kwargs: dict[str, Arg]
    ins: list[Geometry]
    outs: list[Geometry | None]
    requires_grad: tuple[int, ...] = ()
    grad_mode: bool = False
    default_dtype: str = "float32"
    writes: tuple[int, ...] = ()
    draws: bool = False


class Op(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=0):
    """Run a defined call.

    `out` is the storage id of its result, or a tuple of ids if there is not exactly one. `args` are the storage ids of its
    operands, one for each of `Define.ins`, and then its numbers. `site` numbers the user's line that issued it.
    """

    call: int
    out: int | tuple[int, ...]
    args: tuple[Scalar, ...]
    site: int

    @property
    def outs(self) -> tuple[int, ...]:
        """The storage ids of the results, however many there are."""
        return self.out if isinstance(self.out, tuple) else (self.out,)


class Query(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Run a call whose results cannot be inferred, and answer with their geometries and values (`Answer`).

    Tensor results other than operands it writes to are kept under consecutive ids from `out` on, at most `QUERY_RESULTS`.
    Since the client waits for the answer, a failure is raised at once; it poisons what the call `writes` (as in `Define`)
    in a session of several workers only, since the others may have written it.
    """

    request: int
    op: str
    args: list[Arg]
    kwargs: dict[str, Arg]
    ins: list[tuple[int, Geometry]]
    out: int
    site: int
    default_dtype: str = "float32"
    writes: tuple[int, ...] = ()


class Upload(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Write the bytes of frame `frame` (row-major, the geometry's dtype) into a storage, creating it if it is new."""

    id: int
    geometry: Geometry
    frame: int
    site: int


class Fetch(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Answer with the bytes of a tensor, row-major."""

    request: int
    id: int
    geometry: Geometry


class Forget(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """Drop definitions that the client will not name again."""

    calls: list[int]


class Scope(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """The instructions that follow belong to the scope `path` (`layers.0/attn`); the empty path is the top.

    `blocks` are the `with gt.scope(name)` blocks among its parts, outermost first, by a number and the name: each time a
    program enters a block it has another number. `backward`: what follows is the backward pass of what ran in the scope.
    """

    path: str
    blocks: tuple[tuple[int, str], ...] = ()
    backward: bool = False


class LoadFile(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """Read tensor `name` of a safetensors file into storage `id`. Size and dtype of `geometry` must be those in the file.

    Of several workers each reads its part: `digits` are pairs of an axis and the weight of the digit that is its coordinate,
    as of successive `Cut`s.
    """

    id: int
    path: str
    name: str
    geometry: Geometry
    site: int
    digits: tuple[tuple[int, int], ...] = ()


class SaveFile(msgspec.Struct, array_like=True, frozen=True, tag=9):
    """Write tensors to a safetensors file, atomically, and answer (`Answer`).

    In the `background` the answer comes once their values have been copied, or with what went wrong before that; when the
    file is in its place, or has failed, a second answer to the same request follows (`messages.Late`).
    """

    request: int
    path: str
    tensors: dict[str, tuple[int, Geometry]]
    metadata: dict[str, str]
    background: bool = False


class Seed(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """Seed the session's generator."""

    seed: int


class GetRandomState(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """Answer with the state of the session's generator (uint8 bytes, as `torch.get_rng_state`)."""

    request: int


class SetRandomState(msgspec.Struct, array_like=True, frozen=True, tag=12):
    """Set the session's generator from the bytes of frame `frame`."""

    frame: int


class Synchronize(msgspec.Struct, array_like=True, frozen=True, tag=13):
    """Answer once everything before it is done, with the first error that no answer has reported yet."""

    request: int


class Stats(msgspec.Struct, array_like=True, frozen=True, tag=14):
    """Answer (`Answer.stats`) with the worker's counters for this session; with `reset_peak` the peak then starts anew."""

    request: int
    reset_peak: bool = False


# -- what only a sharded session says: the client's marks, which the dispatcher's planner takes out of the stream ----------


class Name(msgspec.Struct, array_like=True, frozen=True, tag=15):
    """Storage `id`, seen through `geometry`, is the parameter or buffer `name` of the program's model.

    `provisional`: it is one of a module that may be part of another, which will give it a longer name.
    """

    id: int
    geometry: Geometry
    name: str
    provisional: bool = False


class Argument(msgspec.Struct, array_like=True, frozen=True, tag=16):
    """Storage `id`, seen through `geometry`, is the argument `name` of the program's root module."""

    id: int
    geometry: Geometry
    name: str


class Crossing(msgspec.Struct, array_like=True, frozen=True, tag=17):
    """Storage `id`, seen through `geometry`, enters or leaves the scope at `path`.

    `side`: "inputs" for what enters it, "out" for its results, "backward" for the gradients that leave its backward pass.
    """

    id: int
    geometry: Geometry
    path: str
    side: str = "out"


class Gradients(msgspec.Struct, array_like=True, frozen=True, tag=18):
    """A backward pass has made gradients: pairs of a named storage and the storage of its gradient."""

    pairs: list[tuple[int, int]]


class Phase(msgspec.Struct, array_like=True, frozen=True, tag=19):
    """What follows is of a phase of a training step: "forward", "evaluation" (without gradients), "backward", "optimizer".

    At its "end" `state` are the storages of the optimizers' state. Only `gt explain` has a program say this.
    """

    name: str
    state: tuple[int, ...] = ()


# -- between the workers of one session: what the planner adds. A worker refuses these from a session that has no group ----


class Part(msgspec.Struct, array_like=True, frozen=True):
    """A storage in a collective: what a worker needs to take part even if its own storage is spoiled.

    `elements` are those of the worker's own storage before it. `weight`: of the digit that is gathered or scattered, in the
    worker's own storage.
    """

    id: int
    elements: int
    dtype: str
    weight: int = 0
    out: int = 0
    """The storage that it makes; 0: itself."""


class AllReduce(msgspec.Struct, array_like=True, frozen=True, tag=30):
    """Replace storages by their reduction over the workers along `axis`: "sum", "average", "norm" or "max"."""

    axis: int
    kind: str
    parts: tuple[Part, ...]


class ReduceScatter(msgspec.Struct, array_like=True, frozen=True, tag=31):
    """Replace storages by this worker's part of their reduction ("sum" or "average") along `axis`."""

    axis: int
    kind: str
    parts: tuple[Part, ...]


class AllGather(msgspec.Struct, array_like=True, frozen=True, tag=32):
    """Put storages together from the workers' parts along `axis`."""

    axis: int
    parts: tuple[Part, ...]


class Cut(msgspec.Struct, array_like=True, frozen=True, tag=33):
    """Keep this worker's part of a replicated storage: the digit of weight `weight` is its coordinate along `axis`."""

    axis: int
    id: int
    weight: int


class Slice(msgspec.Struct, array_like=True, frozen=True, tag=34):
    """Copy this worker's part of a view, row-major, into storage `out`: the digit `weight` of its dim `dim`."""

    axis: int
    id: int
    geometry: Geometry
    out: int
    dim: int
    weight: int


class Once(msgspec.Struct, array_like=True, frozen=True, tag=35):
    """Copy a storage into `out` on the first worker along `axis`, zeros on the others."""

    axis: int
    id: int
    out: int


class Coordinate(msgspec.Struct, array_like=True, frozen=True, tag=36):
    """Make storage `out` an int64 scalar: this worker's coordinate along `axis`, times `scale`."""

    axis: int
    scale: int
    out: int


class Verdict(msgspec.Struct, array_like=True, frozen=True, tag=37):
    """Make storage `out` an int64 scalar: 1 where an error has spoiled one of the storages `ids` on this worker, else 0."""

    ids: tuple[int, ...]
    out: int


class SameGenerator(msgspec.Struct, array_like=True, frozen=True, tag=38):
    """Give the session's generator the state that it has on the first worker along `axis`; an error may have parted them."""

    axis: int


class Recover(msgspec.Struct, array_like=True, frozen=True, tag=42):
    """Let the storages `ids`, which a failed call was to write, be used again as that has left them: all workers agree."""

    ids: tuple[int, ...]


class BeginFile(msgspec.Struct, array_like=True, frozen=True, tag=39):
    """Begin the safetensors file `file`, a number, of tensors with these names and geometries.

    The first worker writes it, unless the `Verdict` in storage `verdict` is that one of them lacks a tensor. In the
    `background`: as `SaveFile`.
    """

    file: int
    path: str
    tensors: dict[str, Geometry]
    metadata: dict[str, str]
    verdict: int
    background: bool = False


class WriteTensor(msgspec.Struct, array_like=True, frozen=True, tag=40):
    """Write storage `id`, which is replicated, as tensor `name` of a file."""

    file: int
    name: str
    id: int
    geometry: Geometry


class EndFile(msgspec.Struct, array_like=True, frozen=True, tag=41):
    """Put a file in its place, and answer (`Answer`)."""

    request: int
    file: int


FromClient: TypeAlias = (
    Op | Define | Query | Upload | Fetch | int | Forget | Scope | LoadFile | SaveFile | Seed | GetRandomState
    | SetRandomState | Synchronize | Stats | Name | Argument | Crossing | Gradients | Phase
)  # fmt: skip
"""A bare integer frees the storage with that id: the most frequent instruction, and the shortest."""
Instruction: TypeAlias = (
    FromClient
    | AllReduce | ReduceScatter | AllGather | Cut | Slice | Once | Coordinate | Verdict | SameGenerator
    | Recover | BeginFile | WriteTensor | EndFile
)  # fmt: skip
COLLECTIVES = (AllReduce, ReduceScatter, AllGather)
"""The instructions that move the elements of storages (`parts`) between workers."""
MARKS = (Name, Argument, Crossing, Gradients, Phase)
"""Those that a planner takes out of the stream."""
QUERY_RESULTS = 1 << 12
"""The most results of a query that may be kept."""
REQUESTS = (Query, Fetch, SaveFile, EndFile, GetRandomState, Synchronize, Stats)
"""Those that get an answer."""
