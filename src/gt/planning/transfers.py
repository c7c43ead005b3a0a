"""Tensors that come from the client or a file, or go there: only the workers that have to take part do."""

from __future__ import annotations

import msgspec

from gt.placement.digit import digits
from gt.placement.layout import Sharding
from gt.placement.pins import pin
from gt.planning.geometry import view_of
from gt.planning.parameters import Parameters
from gt.planning.storages import UNKNOWN
from gt.wire import instructions as wire
from gt.wire.messages import Answer


class Transfers:
    """What becomes of a session's instructions that move tensors in or out."""

    def __init__(self, sharding: Sharding, parameters: Parameters) -> None:
        self._sharding = sharding
        self._parameters = parameters
        self._storages = parameters.storages
        self._out = parameters.storages.out
        self._asked: dict[int, wire.Query] = {}
        """The queries under way, by request."""
        self._written: list[int] = []
        """The parameters that queries were to write which have been answered."""

    def query(self, item: wire.Query) -> None:
        """Its results are known to nobody yet, so every worker runs it on whole operands. What it writes may be resized."""
        ins, made = [], []
        for index, (id, geometry) in enumerate(item.ins):
            if index in item.writes:
                stored = self._storages.find(id, geometry)
                self._storages.make_whole(stored)
                self._storages.drop_copies(stored)
                ins.append((stored.id, geometry))
            else:
                copy, copies = self._parameters.whole_copy(id, geometry)
                ins.append((copy, geometry))
                made += copies
        self._out.append(msgspec.structs.replace(item, ins=ins))
        self._out.extend(made)
        for index in item.writes:
            id, geometry = item.ins[index]
            if id not in self._parameters.pins:
                self._storages.set(self._storages.find(id, geometry), elements=UNKNOWN)
        self._asked[item.request] = item

    def answered(self, answer: Answer) -> None:
        """The results of a query are new storages, which the answer describes; if it failed, some workers may have them."""
        item = self._asked.pop(answer.request, None)
        if item is None:
            return
        self._written += [id for index, (id, _) in enumerate(item.ins) if index in item.writes]
        if answer.failure is not None:
            self._out.extend(range(item.out, item.out + wire.QUERY_RESULTS))
        elif not item.writes:
            for id, geometry in enumerate((g for g in answer.outs if g is not None), item.out):
                self._storages.add(id, geometry)

    @property
    def have_written(self) -> bool:
        """Whether there is something for `place_written` to do."""
        return bool(self._written)

    def place_written(self) -> None:
        """Parameters that queries have written go back to where they belong: if one failed, not before it is known whether
        all workers have the same."""
        for id in self._written:
            self._parameters.restore(id)
        self._written.clear()

    def upload(self, item: wire.Upload) -> None:
        """A new storage is replicated; one that is there gets its elements where it belongs."""
        known = self._storages.by_id.get(item.id)
        if known is None:
            self._storages.add(item.id, item.geometry)
            self._out.append(item)
            return
        self._storages.make_whole(known)
        self._storages.drop_copies(known)
        self._out.append(msgspec.structs.replace(item, id=known.id))
        self._parameters.restore(item.id)

    def load_file(self, item: wire.LoadFile) -> None:
        """A tensor in a file is placed as the parameter of that name: a worker reads its own part of it."""
        rule = self._sharding.param(item.name)
        placements = rule.placements if rule is not None else {}
        belongs = pin(view_of(item.geometry), placements, self._sharding.mesh, strict=False)
        self._storages.add(item.id, item.geometry, belongs.stored)
        cuts = tuple((axis, weight) for weight, axis in reversed(digits(belongs.stored)))
        self._out.append(msgspec.structs.replace(item, digits=cuts))

    def fetch(self, item: wire.Fetch) -> None:
        """The client gets all elements."""
        id, made = self._parameters.whole_copy(item.id, item.geometry)
        self._out.append(msgspec.structs.replace(item, id=id))
        self._out.extend(made)

    def save_file(self, item: wire.SaveFile) -> None:
        """Tensor by tensor, so that no worker has all of them."""
        file = verdict = self._storages.new_id()
        held = [self._storages.find(id, geometry).id for id, geometry in item.tensors.values()]
        self._out.append(wire.Verdict(tuple(held), verdict))
        for axis in self._storages.shared_axes:
            self._out.append(wire.AllReduce(axis, "max", (wire.Part(verdict, 1, "int64"),)))
        geometries = {name: geometry for name, (_, geometry) in item.tensors.items()}
        self._out.append(wire.BeginFile(file, item.path, geometries, item.metadata, verdict, item.background))
        for name, (id, geometry) in item.tensors.items():
            copy, made = self._parameters.whole_copy(id, geometry)
            self._out += [wire.WriteTensor(file, name, copy, geometry), *made]
        self._out += [wire.EndFile(item.request, file), verdict]
