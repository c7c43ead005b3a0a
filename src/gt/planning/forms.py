"""Instructions taken apart into what is the same in every round of a loop and what is not, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from gt.wire import instructions as wire

Maker = Callable[[Sequence[Any]], wire.Instruction]
"""Makes an instruction of the values of a loop."""
Slot = Callable[[int], int]
"""Where an id is among those values. Raises KeyError if it is not there."""


class _Fields(NamedTuple):
    """The fields of an instruction that are storage ids, and one that is another number and only passed on ("": none)."""

    ids: tuple[str, ...]
    number: str = ""


_FROM_CLIENT: dict[type, _Fields] = {
    wire.Upload: _Fields(("id",), "frame"),
    wire.Fetch: _Fields(("id",), "request"),
    wire.Synchronize: _Fields((), "request"),
    wire.Stats: _Fields((), "request"),
    wire.Argument: _Fields(("id",)),
    wire.Crossing: _Fields(("id",)),
}
_FIELDS: dict[type, _Fields] = {
    **_FROM_CLIENT,
    wire.Cut: _Fields(("id",)),
    wire.Slice: _Fields(("id", "out")),
    wire.Once: _Fields(("id", "out")),
    wire.Coordinate: _Fields(("out",)),
}
REPEATED: frozenset[type] = frozenset({int, wire.Op, wire.Gradients, wire.Scope, *_FROM_CLIENT})
"""The instructions of a client that a loop may have."""


def apart(items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The forms of a client's instructions, one of each, and their values, one after the other: ids first, then numbers.

    Raises KeyError for an instruction that no loop has.
    """
    forms: list[Any] = []
    values: list[Any] = []
    add_form, add_value = forms.append, values.append
    for item in items:
        kind = type(item)
        if kind is wire.Op:
            out, args = item.out, item.args
            if type(out) is int:
                add_form((item.call, item.site, len(args)))
                add_value(out)
            else:
                add_form((item.call, item.site, len(args), len(out)))
                values += out
            values += args
        elif kind is int:
            add_form(None)
            add_value(item)
        else:
            form, found = _apart(item)
            add_form(form)
            values += found
    return forms, values


def _apart(item: Any) -> tuple[Any, list[Any]]:
    """One of the instructions that are not many. The number of a block becomes a negative id, which no storage has."""
    match item:
        case wire.Gradients(pairs):
            return (wire.Gradients, len(pairs)), [id for pair in pairs for id in pair]
        case wire.Scope(path, blocks, backward):
            names = tuple(name for _, name in blocks)
            return (wire.Scope, path, names, backward), [-number for number, _ in blocks]
    fields = _FROM_CLIENT[type(item)]
    varying = (*fields.ids, fields.number) if fields.number else fields.ids
    form = msgspec.structs.replace(item, **dict.fromkeys(varying, 0))
    return form, [getattr(item, name) for name in varying]


def numbers(item: Any, operands: Callable[[int], int]) -> list[Any]:
    """The last values of a client's instruction: those that are no ids. `operands`: how many a call has."""
    if isinstance(item, wire.Op):
        return list(item.args[operands(item.call) :])
    fields = _FROM_CLIENT.get(type(item))
    return [getattr(item, fields.number)] if fields is not None and fields.number else []


# -- together --------------------------------------------------------------------------------------------------------------


def maker(made: Any, slot: Slot, given: Sequence[Any], slots: Sequence[int], operands: Callable[[int], int]) -> Maker:
    """What makes an instruction for the workers like `made`.

    `given`: the numbers of the client's instruction from which it stems, and their `slots`. `operands`: how many a call of
    the workers' has. Raises KeyError for what has no slot.
    """
    match made:
        case int():
            return itemgetter(slot(made))
        case wire.Op():
            return _op_maker(made, slot, given, slots, operands(made.call))
        case wire.AllReduce() | wire.ReduceScatter() | wire.AllGather():
            return _collective_maker(made, slot)
        case wire.Scope():
            return _scope_maker(made, slot)
    fields = _FIELDS[type(made)]
    found = {name: slot(getattr(made, name)) for name in fields.ids}
    if fields.number:
        (found[fields.number],) = slots
    return lambda values: msgspec.structs.replace(made, **{name: values[at] for name, at in found.items()})


def _op_maker(made: wire.Op, slot: Slot, given: Sequence[Any], slots: Sequence[int], operands: int) -> Maker:
    number, site, passed = made.call, made.site, made.args[operands:]
    if passed and not (len(passed) == len(given) and all(map(_is, passed, given))):
        raise KeyError(passed)
    args = _picker([*map(slot, made.args[:operands]), *(slots if passed else ())])  # type: ignore[arg-type]
    if isinstance(made.out, int):
        out = slot(made.out)
        return lambda values: wire.Op(number, values[out], args(values), site)
    outs = _picker([*map(slot, made.out)])
    return lambda values: wire.Op(number, outs(values), args(values), site)


def _is(one: Any, other: Any) -> bool:
    return one is other


def _collective_maker(made: Any, slot: Slot) -> Maker:
    kind, leading = type(made), msgspec.structs.astuple(made)[:-1]
    parts = [(slot(part.id), slot(part.out), (part.elements, part.dtype, part.weight)) for part in made.parts]

    def make(values: Sequence[Any]) -> wire.Instruction:
        put = tuple(wire.Part(values[id], *size, values[out]) for id, out, size in parts)
        return kind(*leading, put)

    return make


def _scope_maker(made: wire.Scope, slot: Slot) -> Maker:
    blocks = [(slot(-number), name) for number, name in made.blocks]
    return lambda values: msgspec.structs.replace(made, blocks=tuple((-values[at], name) for at, name in blocks))


def _picker(slots: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """What returns a tuple of the values in some slots."""
    if not slots:
        return lambda values: ()
    if len(slots) == 1:
        (slot,) = slots
        return lambda values: (values[slot],)
    return itemgetter(*slots)
