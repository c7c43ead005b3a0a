"""What a configuration of sharding says, as values: a mesh, and rules for parameters, inputs and scopes.

They are equal if they say the same, wherever it was written: `origin` and `source` are for messages. A client sends them, so
whatever reads them checks them again (`__post_init__`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from gt.errors import ConfigError
from gt.placement.mesh import Mesh
from gt.placement.pattern import compiled
from gt.placement.written import meant

MOST_WORKERS = 65_536
MOST_AXES = 16
MOST_RULES = 4_096
MOST_PARTS = 65_536
DIMS = range(-64, 64)
"""The dimensions that a tensor of PyTorch may have; negative ones count from the last."""

Dim: TypeAlias = Annotated[int, Meta(ge=DIMS[0], le=DIMS[-1])]


class Replicate(msgspec.Struct, frozen=True, tag="replicate"):
    """Each worker along the axis holds all of it."""

    def __str__(self) -> str:
        return "replicate"


class Shard(msgspec.Struct, frozen=True, tag="shard"):
    """Each worker along the axis holds an equal share of dimension `dim` (negative: counted from the last, as in PyTorch).

    With `parts` the dimension consists of that many equal pieces, and each piece is shared out: a fused projection of query,
    key and value has three, so that every worker gets its heads of each.
    """

    dim: Dim
    parts: Annotated[int, Meta(ge=1, le=MOST_PARTS)] = 1

    def __str__(self) -> str:
        return f"shard({self.dim})" if self.parts == 1 else f"shard({self.dim}, parts={self.parts})"


class FullyShard(msgspec.Struct, frozen=True, tag="fully_shard"):
    """Each worker along the axis keeps a share of dimension `dim`; the whole is gathered for use and dropped after it."""

    dim: Dim = 0

    def __str__(self) -> str:
        return f"fully_shard({self.dim})" if self.dim else "fully_shard"


Placement: TypeAlias = Replicate | Shard | FullyShard
Placements: TypeAlias = dict[str, Placement]
"""By axis of the mesh."""


class _Written(msgspec.Struct, frozen=True):
    """Equal to another that says the same, wherever each was written."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        fields = (field for field in self.__struct_fields__ if field not in ("origin", "workers_origin", "source"))
        return all(getattr(self, field) == getattr(other, field) for field in fields)

    __hash__ = None  # type: ignore[assignment]


class _PlacedRule(_Written, frozen=True):
    """Where the tensors are whose names match. `origin` is where it is written: `sharding.yaml:4`."""

    pattern: str
    placements: Placements
    origin: str = ""

    def on(self, axis: str) -> Placement:
        """The placement along an axis: replicated, where the rule does not name it."""
        return self.placements.get(axis, Replicate())


class ParamRule(_PlacedRule, frozen=True):
    """Where the parameters and buffers are whose names in the state dict match."""


class InputRule(_PlacedRule, frozen=True):
    """Where the arguments of the root module are whose names or positions match."""


class ScopeRule(_Written, frozen=True):
    """Where the tensors are that enter and leave a scope. The solver chooses along an axis that is not named.

    `inputs` are used in the scope and made outside, `out` made in it and used outside. `backward` is `out` for the backward
    pass of what ran inside: the gradients that leave it there. None: they are where `out` says.
    """

    pattern: str
    out: Placements = {}
    inputs: Placements = {}
    backward: Placements | None = None
    origin: str = ""

    @property
    def backward_out(self) -> Placements:
        """Where the gradients are that leave the scope in the backward pass."""
        return self.out if self.backward is None else self.backward

    def on_side(self, side: str) -> Placements:
        """The placements of what enters the scope ("inputs"), of its results ("out"), of the gradients ("backward")."""
        return {"inputs": self.inputs, "out": self.out, "backward": self.backward_out}[side]


class Sharding(_Written, frozen=True):
    """A configuration: the mesh, and the rules in the order in which they are tried.

    `workers` are those that the mesh consists of, by name or number, in the order of its ranks; empty: any. They are written
    at `workers_origin`; `source` is the file's name. Raises ConfigError if the parts contradict each other.
    """

    mesh: Mesh
    workers: Annotated[tuple[str | int, ...], Meta(max_length=MOST_WORKERS)] = ()
    params: Annotated[tuple[ParamRule, ...], Meta(max_length=MOST_RULES)] = ()
    inputs: Annotated[tuple[InputRule, ...], Meta(max_length=MOST_RULES)] = ()
    scopes: Annotated[tuple[ScopeRule, ...], Meta(max_length=MOST_RULES)] = ()
    source: str = ""
    workers_origin: str = ""

    def __post_init__(self) -> None:
        axes, sizes = self.mesh.axes, self.mesh.sizes
        if not 1 <= len(axes) <= MOST_AXES or len(set(axes)) != len(axes) or len(axes) != len(sizes):
            raise ConfigError(f"a mesh of axes {axes} and sizes {sizes}; legal: as many sizes, 1 to {MOST_AXES}")
        if min(sizes) < 1 or self.workers_needed > MOST_WORKERS:
            raise ConfigError(f"a mesh of sizes {sizes}; legal: 1 to {MOST_WORKERS:,} workers")
        if self.workers and len(self.workers) != self.workers_needed:
            raise ConfigError(f"a mesh of {self.workers_needed} workers is given {len(self.workers)}")
        for rule in (*self.params, *self.inputs):
            self._check(rule.pattern, rule.placements)
        for scope in self.scopes:
            self._check(scope.pattern, scope.out, scope.inputs, scope.backward_out)

    def _check(self, pattern: str, *placements: Placements) -> None:
        compiled(pattern)
        for unknown in {axis for one in placements for axis in one} - set(self.mesh.axes):
            raise ConfigError(f"{pattern!r}: no axis {unknown!r} in the mesh")

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the mesh's axes, outermost first."""
        return self.mesh.axes

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the mesh's axes."""
        return self.mesh.sizes

    @property
    def workers_needed(self) -> int:
        """How many workers the mesh has."""
        return self.mesh.ranks

    @property
    def described(self) -> str:
        """The mesh as it is written, for messages."""
        return "{" + ", ".join(f"{axis}: {size}" for axis, size in zip(self.axes, self.sizes, strict=True)) + "}"

    @property
    def need(self) -> str:
        """How many workers it needs, for messages."""
        return f"{self.source}: the mesh {self.described} needs {self.workers_needed} workers"

    def worker_names(self, there: Sequence[str]) -> tuple[str, ...]:
        """The names of the workers that are listed; `there` are those of the service, by number. Raises ConfigError."""
        for one in self.workers:
            if one not in (there if isinstance(one, str) else range(len(there))):
                near = meant(one, there) if isinstance(one, str) else ""
                known = ", ".join(there) or "none"
                raise ConfigError(f"{self.workers_origin}: workers: the service has no worker {one!r}; legal: {known}{near}")
        chosen = tuple(one if isinstance(one, str) else there[one] for one in self.workers)
        if len(set(chosen)) < len(chosen):
            twice = next(name for name in chosen if chosen.count(name) > 1)
            raise ConfigError(
                f"{self.workers_origin}: workers: {twice!r} is there twice, by its name or number; legal: once"
            )
        return chosen

    def param(self, name: str) -> ParamRule | None:
        """The first rule that matches a name of the state dict. None: replicated on every axis."""
        return next((rule for rule in self.params if compiled(rule.pattern).matches(name)), None)

    def input(self, *names: str) -> InputRule | None:
        """The first rule that matches one of an argument's names, or its position. None: replicated on every axis."""
        return next((rule for rule in self.inputs if any(map(compiled(rule.pattern).matches, names))), None)

    def scope(self, path: str) -> ScopeRule | None:
        """The first rule that matches a scope's path. None: the solver chooses."""
        return next((rule for rule in self.scopes if compiled(rule.pattern).matches(path)), None)
