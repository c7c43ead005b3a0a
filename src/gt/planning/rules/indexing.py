"""Operators that read or write where indices say."""

from __future__ import annotations

import math
from dataclasses import replace

from gt.placement.digit import Partial
from gt.planning.rule import Label, Labels, Rule
from gt.planning.rules import labelling
from gt.planning.rules.pointwise import kinds_of
from gt.planning.rules.reading import Table, argument, dim, operand, operands_in
from gt.wire import instructions as wire


def embedding(define: wire.Define) -> Rule | None:
    """`embedding(weight [v, d], indices)`. Sharding the vocabulary takes a lowering: a rank has one run of its rows."""
    where: Labels = tuple(("index", k) for k in range(len(define.ins[1].size)))
    found = labelling.rule(
        {0: ("v", "d"), 1: where}, {0: (*where, "d")}, sums={0: frozenset({"v"})}, contiguous=frozenset({"v"})
    )
    return replace(found, lowering="embedding", lowered=frozenset({"v"}))


def embedding_dense_backward(define: wire.Define) -> Rule | None:
    """The gradient of a table of embeddings: each rank has its indices' part, unless it is scaled by their frequency."""
    where: Labels = tuple(("index", k) for k in range(len(define.ins[1].size)))
    scaled = argument(define, 4, "scale_grad_by_freq", False) is not False
    indices = labelling.labels_in([where])
    ins: dict[int, Labels] = {0: (*where, "d"), 1: where}
    return labelling.rule(ins, {0: (None, "d")}, indices if scaled else (), sums={0: indices})


def index_select(define: wire.Define) -> Rule | None:
    """`index_select(self, dim, index)`: the index may be sharded, and any dim but the indexed one."""
    size = define.ins[0].size
    at = dim(argument(define, 1, "dim"), len(size))
    index = operand(define, 2, "index")
    if at is None or index is None:
        return None
    labels = labelling.positions(size, [at])
    picked: Labels = ("index",) * len(define.ins[index].size)
    made: Labels = (*labels[:at], "index" if picked else None, *labels[at + 1 :])
    return labelling.rule({0: labels, index: picked}, {0: made})


def gather(define: wire.Define) -> Rule | None:
    """`gather(self, dim, index)`: the index may be smaller than `self` in other dims, which are whole then.

    The indexed dim may be sharded by a lowering, if few elements are picked: all ranks together have the result.
    """
    found = _along_index(define, [0], 2, made_like_index=True)
    picked = define.outs[0]
    if found is None or picked is None or 2 * math.prod(picked.size) > math.prod(define.ins[0].size):
        return found
    return _by_runs(found, define, 0, "gather")


def scatter_add(define: wire.Define) -> Rule | None:
    """`scatter_add(self, dim, index, src)`: as `scatter`, and the indexed dim may be sharded by a lowering."""
    found = scatter(define)
    return None if found is None else _by_runs(found, define, None, "scatter_add")


def _by_runs(found: Rule, define: wire.Define, summed: int | None, lowering: str) -> Rule:
    """The rule with the indexed dim of the first operand sharded by runs; the result `summed` is a Partial then."""
    (group,) = found.groups
    at = dim(argument(define, 1, "dim"), len(define.ins[0].size))
    if at is None or Partial.SUM not in kinds_of(define.ins[0].dtype):
        return found
    run = frozenset({"run"})
    ins = {**group.ins, 0: _with("run", at, group.ins[0])}
    outs = group.outs if summed is not None else {o: _with("run", at, labels) for o, labels in group.outs.items()}
    sums = {} if summed is None else {summed: run}
    wider = replace(group, ins=ins, outs=outs, sums=sums, may_shard=group.may_shard | run, contiguous=run)
    return replace(found, groups=(wider,), lowering=lowering, lowered=run)


def _along_index(define: wire.Define, like_self: list[int], index_at: int, made_like_index: bool) -> Rule | None:
    """Operands of one number of dims, of which all but the indexed one go together where their sizes are equal."""
    size = define.ins[0].size
    at = dim(argument(define, 1, "dim"), len(size))
    index = operand(define, index_at, "index")
    if at is None or index is None or len(define.ins[index].size) != len(size):
        return None
    shared = labelling.positions(size, [at])
    ins: dict[int, Labels] = {}
    for i, g in enumerate(define.ins):
        if i not in like_self and i != index and g.size == ():  # a number
            ins[i] = ()
            continue
        if len(g.size) != len(size):
            return None
        shared = labelling.where_equal(shared, g.size, size)
    ins.update({i: shared for i in range(len(define.ins)) if i not in ins})
    if not made_like_index:
        return labelling.rule(ins, {0: shared})
    ins[index] = _with("index", at, shared)
    return labelling.rule(ins, {0: ins[index]})


def _with(label: Label, at: int, labels: Labels) -> Labels:
    return (*labels[:at], label, *labels[at + 1 :])


def scatter(define: wire.Define) -> Rule | None:
    """`scatter(self, dim, index, src or value)` and its kin: any dim but the indexed one, where all have equal sizes."""
    return _along_index(define, [0], 2, made_like_index=False)


def index_add(define: wire.Define) -> Rule | None:
    """`index_add(self, dim, index, source)` and its kin: `source` has the other dims of `self`."""
    size = define.ins[0].size
    at = dim(argument(define, 1, "dim"), len(size))
    index, source = operand(define, 2, "index"), operand(define, 3, "source")
    if at is None or index is None or source is None:
        return None
    labels = labelling.positions(size, [at])
    return labelling.rule({0: labels, index: (None,) * len(define.ins[index].size), source: labels}, {0: labels})


def index_fill(define: wire.Define) -> Rule | None:
    """`index_fill(self, dim, index, value)`."""
    size = define.ins[0].size
    at = dim(argument(define, 1, "dim"), len(size))
    if at is None:
        return None
    labels = labelling.positions(size, [at])
    others: dict[int, Labels] = {i: (None,) * len(g.size) for i, g in enumerate(define.ins) if i}
    return labelling.rule({0: labels, **others}, {0: labels})


def index(define: wire.Define) -> Rule | None:
    """`index(self, indices)`: a dim without an index may be sharded, and the indices themselves."""
    found = _indexed(define)
    if found is None:
        return None
    read, indices, picked = found
    return labelling.rule({0: read, **indices}, {0: picked})


def index_put(define: wire.Define) -> Rule | None:
    """`index_put(self, indices, values)`: only dims of `self` without an index may be sharded."""
    found = _indexed(define)
    values = operand(define, 2, "values")
    if found is None or values is None:
        return mask_put(define)
    read, indices, picked = found
    given = define.ins[values].size
    sizes = {label: n for label, n in zip(read, define.ins[0].size, strict=True) if label is not None}
    if len(given) > len(picked):
        return None
    there = picked[len(picked) - len(given) :]
    put: Labels = tuple(
        label if label in sizes and n == sizes[label] else None for label, n in zip(there, given, strict=True)
    )
    whole: dict[int, Labels] = {i: (None,) * len(labels) for i, labels in indices.items()}
    return labelling.rule({0: read, **whole, values: put}, {0: read})


def _indexed(define: wire.Define) -> tuple[Labels, dict[int, Labels], Labels] | None:
    """The labels of `self`, of the indices, and of `self[indices]`. None for masks, which are counted and not broadcast."""
    size = define.ins[0].size
    given = argument(define, 1, "indices")
    if not isinstance(given, list) or len(given) > len(size):
        return None
    at = [k for k, value in enumerate(given) if isinstance(value, wire.In)]
    named = operands_in(given)
    if not at or any(define.ins[i].dtype in ("bool", "uint8") for i in named) or len(set(named)) != len(at):
        return None
    sizes = [define.ins[i].size for i in named]
    count = max(len(s) for s in sizes)
    shape = [max((s[len(s) - k] for s in sizes if len(s) >= k), default=1) for k in range(count, 0, -1)]
    picks: Labels = tuple(("index", k - count) for k in range(count))
    indices: dict[int, Labels] = {
        i: tuple(
            label if n == m else None
            for label, n, m in zip(picks[count - len(s) :], s, shape[count - len(s) :], strict=True)
        )
        for i, s in zip(named, sizes, strict=True)
    }
    read = labelling.positions(size, at)
    together = at == list(range(at[0], at[-1] + 1))
    first = at[0] if together else 0
    kept = [k for k in range(len(size)) if k not in at]
    before: Labels = tuple(k for k in kept if together and k < first)
    after: Labels = tuple(k for k in kept if not (together and k < first))
    return read, indices, (*before, *picks, *after)


def mask_put(define: wire.Define) -> Rule | None:
    """`self[mask] = number`: the mask has the first dims of `self`, and any of them may be sharded with it."""
    given, value = argument(define, 1, "indices"), operand(define, 2, "values")
    masks = operands_in(given)
    if value is None or len(masks) != 1 or given[:1] != [wire.In(masks[0])]:  # type: ignore[index]
        return None
    mask, put = define.ins[masks[0]], define.ins[value]
    labels = labelling.positions(define.ins[0].size)
    if mask.dtype != "bool" or any(n != 1 for n in put.size) or argument(define, 3, "accumulate", False) is not False:
        return None
    return labelling.rule({0: labels, masks[0]: labels[: len(mask.size)], value: (None,) * len(put.size)}, {0: labels})


def take(define: wire.Define) -> Rule | None:
    """`take(self, index)`: each index by itself."""
    labels = labelling.positions(define.ins[1].size)
    return labelling.rule({0: (None,) * len(define.ins[0].size), 1: labels}, {0: labels})


def searchsorted(define: wire.Define) -> Rule | None:
    """`searchsorted(sequences [..., n], values [..., m])`: values of one sequence, or each line in its own."""
    values = operand(define, 1)
    if values != 1 or not define.ins[0].size:
        return None
    size = define.ins[0].size
    labels = labelling.positions(define.ins[1].size)
    sequences: Labels = (None,) if len(size) == 1 else (*labels[:-1], None)
    return labelling.rule({i: labels if i == 1 else sequences for i in range(len(define.ins))}, {0: labels})


def bucketize(define: wire.Define) -> Rule | None:
    """`bucketize(self, boundaries)` and `isin(elements, others)`: each element by itself, with the others whole."""
    if operand(define, 0) is None or operand(define, 1) is None:
        return None
    labels = labelling.positions(define.ins[0].size)
    return labelling.rule({0: labels, 1: (None,) * len(define.ins[1].size)}, {0: labels})


TABLE: Table = {
    "embedding": embedding,
    "embedding_dense_backward": embedding_dense_backward,
    "index_select": index_select,
    "gather": gather,
    **dict.fromkeys(("scatter", "scatter_reduce"), scatter),
    "scatter_add": scatter_add,
    **dict.fromkeys(("index_add", "index_copy", "index_reduce"), index_add),
    "index_fill": index_fill,
    "index": index,
    "index_put": index_put,
    "take": take,
    "searchsorted.Tensor": searchsorted,
    **dict.fromkeys(("bucketize.Tensor", "isin.Tensor_Tensor"), bucketize),
}
