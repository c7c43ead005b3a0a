"""The instruction set: everything a client can ask of a worker, on one page.

A stream of instructions belongs to one session and is executed in order. Tensors are named by *storage ids*, chosen by the
client and private to its session; an operand is a storage seen through a `Geometry`. An operator call is described once, by
`Define`, and from then on costs one small `Op` that names the definition, the storages and the numbers that vary.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Geometry(msgspec.Struct, array_like=True, frozen=True):
    """How a tensor lies in its storage: sizes and strides in elements, offset in elements, dtype as in `torch.<dtype>`."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: str
    conj: bool = False
    neg: bool = False


# -- the template of a call: what is the same each time ------------------------------------------------------------------


class In(msgspec.Struct, frozen=True, tag="in"):
    """The n-th operand (an index into `Op.args` and `Define.ins`)."""

    index: int


class Number(msgspec.Struct, frozen=True, tag="number"):
    """The n-th number that varies from call to call (an index into `Op.args` behind its operands)."""

    index: int


class Dtype(msgspec.Struct, frozen=True, tag="dtype"):
    name: str


class Layout(msgspec.Struct, frozen=True, tag="layout"):
    name: str


class MemoryFormat(msgspec.Struct, frozen=True, tag="memory_format"):
    name: str


class Device(msgspec.Struct, frozen=True, tag="device"):
    """The device of the worker that executes the call."""


class Generator(msgspec.Struct, frozen=True, tag="generator"):
    """A generator whose state is operand n (uint8); the call reads it and leaves the advanced state there."""

    index: int


class Sparse(msgspec.Struct, frozen=True, tag="sparse"):
    """A tensor of a sparse layout (`sparse_coo`, `sparse_csr`, ...), put together from operands: its indices and values,
    or the compressed indices, the plain ones and the values of a compressed layout."""

    layout: str
    parts: tuple[int, ...]
    size: tuple[int, ...]
    coalesced: bool = False


class Complex(msgspec.Struct, frozen=True, tag="complex"):
    real: float
    imag: float


Scalar: TypeAlias = bool | int | float | Complex
Plain: TypeAlias = (
    None | bool | int | float | str | In | Number | Dtype | Layout | MemoryFormat | Device | Generator | Sparse | Complex
)
Arg: TypeAlias = Plain | list[Plain]


# -- instructions --------------------------------------------------------------------------------------------------------


class Define(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Describe call number `call` of this session.

    `op` is an ATen overload (`aten::mul.Tensor`) or one of GT's own (`gt::...`), looked up in the op table.
    `ins` holds the geometry of every operand, `outs` that of every result: None stands for an undefined result.
    `requires_grad`: the operands that do, and `grad_mode`: whether it is enabled, of a composite that travels whole, since
    some kernels go by each. Where both are there, the last result is an opaque handle on what backward needs.
    `default_dtype` is the client's, which decides what an int divided by an int gives.
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


class Op(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=0):
    """Run a defined call.

    `out` is the storage id of its result, or the ids where it has not just one. `args` are the storage ids of its operands,
    one for each of `Define.ins`, and then its numbers. `site` numbers the user's line that issued it.
    """

    call: int
    out: int | tuple[int, ...]
    args: tuple[Scalar, ...]
    site: int

    @property
    def outs(self) -> tuple[int, ...]:
        return self.out if isinstance(self.out, tuple) else (self.out,)


class Query(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Run a call whose results cannot be foretold, and answer with their geometries and values (`Answer`).

    The tensor results that are not written operands are kept under the ids from `out` on, at most `QUERY_RESULTS`. Since
    the client waits for the answer, a failure is raised at once and spoils no operand.
    """

    request: int
    op: str
    args: list[Arg]
    kwargs: dict[str, Arg]
    ins: list[tuple[int, Geometry]]
    out: int
    site: int
    default_dtype: str = "float32"


class Upload(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Write the bytes of frame `frame` (row-major, the geometry's dtype) into a storage, creating it where it is new."""

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
    """What follows belongs to the scope `path` (`layers.0/attn`); the empty path is the top."""

    path: str


class LoadFile(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """Read tensor `name` of a safetensors file into storage `id`. `size` and `dtype` must be those of the file."""

    id: int
    path: str
    name: str
    geometry: Geometry
    site: int


class SaveFile(msgspec.Struct, array_like=True, frozen=True, tag=9):
    """Write tensors to a safetensors file, atomically, and answer (`Answer`)."""

    request: int
    path: str
    tensors: dict[str, tuple[int, Geometry]]
    metadata: dict[str, str]


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
    """Answer when everything before it is done, with the first error that no answer has reported yet."""

    request: int


class Stats(msgspec.Struct, array_like=True, frozen=True, tag=14):
    """Answer (`Answer.stats`) with the worker's counters for this session; with `reset_peak` the peak then starts anew."""

    request: int
    reset_peak: bool = False


Instruction: TypeAlias = (
    Op
    | Define
    | Query
    | Upload
    | Fetch
    | int
    | Forget
    | Scope
    | LoadFile
    | SaveFile
    | Seed
    | GetRandomState
    | SetRandomState
    | Synchronize
    | Stats
)
"""A bare integer frees the storage of that id: the commonest instruction of all, and the shortest."""
QUERY_RESULTS = 1 << 12
REQUESTS = (Query, Fetch, SaveFile, GetRandomState, Synchronize, Stats)
