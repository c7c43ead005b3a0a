"""The grammar of a configuration: from what is written, in YAML or in Python, to a `Sharding`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from gt.errors import ConfigError
from gt.placement import placement_text
from gt.placement.layout import (
    MOST_AXES,
    MOST_RULES,
    MOST_WORKERS,
    FullyShard,
    InputRule,
    ParamRule,
    Placement,
    Placements,
    Replicate,
    ScopeRule,
    Shard,
    Sharding,
)
from gt.placement.mesh import Mesh
from gt.placement.pattern import compiled
from gt.placement.written import Written, WrittenMapping, fault, meant, quoted

KEYS = ("mesh", "workers", "params", "inputs", "scopes")
LATER = ("stages", "pipeline", "auto", "machines")
"""Keys of a later version, refused by name."""
SCOPE_KEYS = ("out", "inputs", "backward")
DEEPEST = 8
"""The most levels of mappings and lists in each other; the grammar has five."""
_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_Rule = TypeVar("_Rule", ParamRule, InputRule)
_Entries = Iterator[tuple[str, Written, Written]]


def sharding(
    mesh: Mapping[str, int],
    params: Mapping[str, Mapping[str, Placement | str]] | None = None,
    inputs: Mapping[str | int, Mapping[str, Placement | str]] | None = None,
    scopes: Mapping[str, Mapping[str, Any]] | None = None,
    workers: list[str | int] | tuple[str | int, ...] | None = None,
    source: str = "gt.sharding",
) -> Sharding:
    """A configuration written in Python: the arguments are the keys of the YAML file, and placements may be objects.

    `source` is where it is written, for messages. Raises ConfigError.
    """
    given = {"mesh": mesh, "workers": workers, "params": params, "inputs": inputs, "scopes": scopes}
    return read(_from_python({key: value for key, value in given.items() if value is not None}, source), source)


def read(written: Written, source: str) -> Sharding:
    """The configuration that is written. Raises ConfigError."""
    keys: dict[str, Written] = {}
    for key, at, value in _entries(written, "", "mesh: {dp: 2}"):
        if key in LATER:
            raise fault(at, key, f"not supported yet; legal: {', '.join(KEYS)}")
        if key not in KEYS:
            raise fault(at, quoted(key), f"unknown key; legal: {', '.join(KEYS)}{meant(key, KEYS)}")
        keys[key] = value
    if "mesh" not in keys:
        raise fault(written, "mesh", "missing; legal: the axes over the workers, such as mesh: {dp: 2}")
    mesh = _mesh(keys["mesh"])
    return Sharding(
        mesh=Mesh(tuple(mesh), tuple(mesh.values())),
        workers=_workers(keys["workers"], math.prod(mesh.values())) if "workers" in keys else (),
        params=_rules(ParamRule, "params", keys["params"], mesh) if "params" in keys else (),
        inputs=_rules(InputRule, "inputs", keys["inputs"], mesh) if "inputs" in keys else (),
        scopes=_scopes(keys["scopes"], mesh) if "scopes" in keys else (),
        source=source,
        workers_origin=keys["workers"].origin if "workers" in keys else "",
    )


def _entries(written: Written, subject: str, example: str) -> _Entries:
    """The keys of a mapping, where each is written, and its value. Raises ConfigError, also for a key that comes twice."""
    if not isinstance(written.value, WrittenMapping):
        raise fault(written, subject, f"got {written.got}; legal: a mapping, such as {example}")
    seen: dict[str, Written] = {}
    for at, value in written.value:
        key = str(at.value) if subject == "inputs" and isinstance(at.value, int) and at.value >= 0 else at.value
        if not isinstance(key, str):
            raise fault(at, subject, f"got {at.got} as a key; legal: text, such as {example}; quotes make text of anything")
        if key in seen:
            raise fault(at, subject, f"{quoted(key)} is there twice, first at {seen[key].origin}; legal: once")
        seen[key] = at
        yield key, at, value


def _mesh(written: Written) -> dict[str, int]:
    mesh: dict[str, int] = {}
    for axis, at, size in _entries(written, "mesh", "{dp: 2}"):
        if not _AXIS.fullmatch(axis):
            raise fault(at, "mesh", f"got the axis {quoted(axis)}; legal: at most 32 letters, digits and _, no digit first")
        if not isinstance(size.value, int) or not 1 <= size.value <= MOST_WORKERS:
            raise fault(size, f"mesh, axis {axis!r}", f"got {size.got}; legal: an integer from 1 to {MOST_WORKERS:,}")
        mesh[axis] = size.value
    if not 1 <= len(mesh) <= MOST_AXES:
        raise fault(written, "mesh", f"got {len(mesh)} axes; legal: 1 to {MOST_AXES}, such as {{dp: 2}}")
    if math.prod(mesh.values()) > MOST_WORKERS:
        raise fault(written, "mesh", f"got {math.prod(mesh.values()):,} workers in all; legal: at most {MOST_WORKERS:,}")
    return mesh


def _workers(written: Written, needed: int) -> tuple[str | int, ...]:
    if not isinstance(written.value, list) or isinstance(written.value, WrittenMapping):
        raise fault(written, "workers", f"got {written.got}; legal: a list of names or numbers, such as [worker0, worker1]")
    chosen: dict[str | int, Written] = {}
    for one in written.value:
        is_number = isinstance(one.value, int) and 0 <= one.value < MOST_WORKERS
        if not is_number and not (isinstance(one.value, str) and one.value):
            raise fault(one, "workers", f"got {one.got}; legal: a worker's name, or its number from 0")
        if one.value in chosen:
            raise fault(one, "workers", f"{one.got} is there twice, first at {chosen[one.value].origin}; legal: once")
        chosen[one.value] = one
    if len(chosen) != needed:
        raise fault(written, "workers", f"got {len(chosen)}; legal: {needed}, as many as the mesh has")
    return tuple(chosen)


def _patterns(section: str, written: Written, example: str) -> Iterator[tuple[str, str, Written, Written]]:
    """Each pattern of a section, its name in messages, where it is written, and its value."""
    for count, (pattern, at, value) in enumerate(_entries(written, section, f'{{"**": {example}}}'), 1):
        if count > MOST_RULES:
            raise fault(at, section, f"got more than {MOST_RULES:,} rules; legal: at most {MOST_RULES:,}")
        subject = f"{section} {quoted(pattern)}"
        try:
            compiled(pattern)
        except ConfigError as error:
            raise fault(at, subject, str(error)) from None
        yield pattern, subject, at, value


def _rules(kind: type[_Rule], section: str, written: Written, mesh: dict[str, int]) -> tuple[_Rule, ...]:
    rules = []
    for pattern, subject, at, value in _patterns(section, written, f"{{{next(iter(mesh))}: replicate}}"):
        placements = _placements(value, subject, mesh, fully=kind is ParamRule)
        rules.append(kind(pattern, placements, at.origin))
    return tuple(rules)


def _scopes(written: Written, mesh: dict[str, int]) -> tuple[ScopeRule, ...]:
    example = f"{{out: {{{next(iter(mesh))}: replicate}}}}"
    return tuple(
        ScopeRule(pattern, origin=at.origin, **_scope(value, subject, example, mesh))
        for pattern, subject, at, value in _patterns("scopes", written, example)
    )


def _scope(written: Written, subject: str, example: str, mesh: dict[str, int]) -> dict[str, Placements]:
    """The placements of a scope by key; those of `backward` are one level down."""
    found: dict[str, Placements] = {}
    for key, at, value in _entries(written, subject, example):
        if key not in SCOPE_KEYS:
            raise fault(at, subject, f"unknown key {quoted(key)}; legal: {', '.join(SCOPE_KEYS)}{meant(key, SCOPE_KEYS)}")
        if key != "backward":
            found[key] = _placements(value, f"{subject}, {key}", mesh, fully=False)
            continue
        for inner, there, placements in _entries(value, f"{subject}, backward", example):
            if inner != "out":
                raise fault(there, f"{subject}, backward", f"unknown key {quoted(inner)}; legal: out{meant(inner, ['out'])}")
            found[key] = _placements(placements, f"{subject}, backward, out", mesh, fully=False)
    return found


def _placements(written: Written, subject: str, mesh: dict[str, int], fully: bool) -> Placements:
    """The placements by axis, in the mesh's order. `fully`: whether they may be fully sharded."""
    found: Placements = {}
    for axis, at, value in _entries(written, subject, f"{{{next(iter(mesh))}: replicate}}"):
        if axis not in mesh:
            raise fault(at, subject, f"unknown axis {quoted(axis)}; legal: {', '.join(mesh)}{meant(axis, mesh)}")
        placement = _placement(value, f"{subject}, axis {axis!r}")
        if isinstance(placement, FullyShard) and not fully:
            legal = "legal: replicate, shard(DIM), shard(DIM, parts=N)"
            raise fault(value, f"{subject}, axis {axis!r}", f"got {placement}, which is for params; {legal}")
        found[axis] = placement
    return {axis: found[axis] for axis in mesh if axis in found}


def _placement(written: Written, subject: str) -> Placement:
    text = written.value
    if isinstance(text, Replicate | Shard | FullyShard):
        text = str(text)
    if not isinstance(text, str):
        raise fault(written, subject, f"got {written.got}; legal: {placement_text.LEGAL}")
    try:
        return placement_text.read(text)
    except ConfigError as error:
        raise fault(written, subject, str(error)) from None


def _from_python(value: object, source: str, level: int = 0) -> Written:
    """Python's values as written ones. Raises ConfigError for what lies in itself."""
    if level > DEEPEST:
        raise ConfigError(f"{source}: more than {DEEPEST} levels of mappings and lists in each other")
    if isinstance(value, Mapping):
        pairs = ((_from_python(key, source, level + 1), _from_python(one, source, level + 1)) for key, one in value.items())
        return Written(WrittenMapping(pairs), source, "a mapping")
    if isinstance(value, list | tuple):
        return Written([_from_python(one, source, level + 1) for one in value], source, "a list")
    if isinstance(value, str):
        return Written(value, source, quoted(value))
    if isinstance(value, Replicate | Shard | FullyShard):
        return Written(value, source, str(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return Written(value, source, f"the number {value}" if abs(value) < 10**18 else "a huge number")
    return Written(None, source, "nothing" if value is None else f"a value of type {type(value).__name__}")
