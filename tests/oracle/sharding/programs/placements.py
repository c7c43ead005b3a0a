"""The layouts that programs run on, made for the tensors that each program has: what divides is sharded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

Size = tuple[int, ...]
Named = dict[str, Size]
"""The sizes of a program's parameters and buffers, by name."""
TOGETHER = 12
"""Names in one rule: a pattern has at most 1,000 characters."""


def by_rows(number: int, size: Size) -> str:
    """Every tensor by its first dim."""
    return "tp: shard(0)" if size and size[0] % 2 == 0 else ""


def by_columns(number: int, size: Size) -> str:
    """Every matrix by its last dim."""
    return f"tp: shard({len(size) - 1})" if len(size) > 1 and size[-1] % 2 == 0 else ""


def in_turn(number: int, size: Size) -> str:
    """One tensor by its first dim, the next by its second one, as of an MLP; each of these parts fully sharded."""
    dim = (number + 1) % 2 if len(size) > 1 else 0
    return f"tp: shard({dim}), dp: fully_shard" if size and size[dim] % 2 == 0 else ""


def by_two_axes(number: int, size: Size) -> str:
    """By two axes: a matrix by both dims, another tensor twice by its first one."""
    if len(size) > 1 and size[0] % 2 == size[1] % 2 == 0:
        return "a: shard(0), b: shard(1)"
    return "a: shard(0), b: shard(0)" if size and size[0] % 4 == 0 else ""


def params(named: Named, place: Callable[[int, Size], str], others: str) -> str:
    """The rules for tensors that `place` finds a place for, by their numbers among those of as many dims and by their sizes,
    and for the others."""
    alike: dict[str, list[str]] = {}
    numbers = Counter[int]()
    for name, size in named.items():
        numbers[len(size)] += 1
        if placements := place(numbers[len(size)], size):
            alike.setdefault(placements, []).append(name)
    rules = [
        f'"{{{",".join([names[0], *names[i : i + TOGETHER]])}}}": {{{placements}}}'  # some names come after the first step
        for placements, names in alike.items()
        for i in range(1, len(names) + 1, TOGETHER)
    ]
    return "params: {" + ", ".join([*rules, f'"**": {{{others}}}']) + "}"


Layout = Callable[[Named], str | None]
"""The configuration in YAML for a program with these tensors; None: a single worker without one."""
ROWS = 'inputs: {"**": {dp: shard(0)}}'
LAYOUTS: dict[str, Layout] = {
    "one": lambda named: None,
    "dp": lambda named: f"mesh: {{dp: 2}}\n{ROWS}",
    "fsdp": lambda named: f'mesh: {{dp: 2}}\nparams: {{"**": {{dp: fully_shard}}}}\n{ROWS}',
    "three": lambda named: f'mesh: {{dp: 3}}\nparams: {{"**": {{dp: fully_shard}}}}\n{ROWS}',
    "rows": lambda named: f"mesh: {{tp: 2}}\n{params(named, by_rows, 'tp: replicate')}",
    "columns": lambda named: f"mesh: {{tp: 2}}\n{params(named, by_columns, 'tp: replicate')}",
    "fsdp x tp": lambda named: f"mesh: {{dp: 2, tp: 2}}\n{params(named, in_turn, 'dp: fully_shard')}\n{ROWS}",
    "two axes": lambda named: (
        f"mesh: {{a: 2, b: 2}}\n{params(named, by_two_axes, 'a: fully_shard, b: fully_shard(1)')}\n"
        'inputs: {"**": {a: shard(0), b: shard(0)}}'
    ),
    "sp": lambda named: 'mesh: {sp: 2}\ninputs: {"**": {sp: shard(1)}}',
    "dp x sp": lambda named: (
        'mesh: {dp: 2, sp: 2}\nparams: {"**": {dp: fully_shard, sp: fully_shard}}\n'
        'inputs: {"**": {dp: shard(0), sp: shard(1)}}'
    ),
    "scopes": lambda named: (
        f'mesh: {{dp: 2}}\nparams: {{"**": {{dp: fully_shard(1)}}}}\n{ROWS}\n'
        'scopes: {"**": {out: {dp: shard(1)}, inputs: {dp: replicate}, backward: {out: {dp: shard(0)}}}}'
    ),
}
