"""NumPy arrays that share a tensor's memory on a CPU. Here each has its own, and what is written to one is copied over.

A link ties an array to a storage. While there are links, whoever records an instruction looks at the storages that it names:
an array that was changed is sent before it, and what it writes is fetched into the array after it. Without links recording
costs nothing more. docs/decisions/029-numpy-memory.md.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import numpy
import torch

from gt.client.session import recording
from gt.client.session.process import process
from gt.client.stream import operands, sites
from gt.client.stream.definitions import definitions
from gt.client.stream.geometry import TensorSpec, intern
from gt.client.stream.segment import Segment, recorder
from gt.client.stream.watched import Watched
from gt.wire import instructions as wire
from gt.wire.shared import Shared

Array = numpy.ndarray[Any, Any]
Buffer = bytes | memoryview
SOURCE_BYTES = 1 << 20
"""A larger array that a tensor is made of is copied: looking at it whenever the tensor is used would take too long."""
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

USED: dict[type, Callable[[Any], Iterable[Any]]] = {
    wire.Op: lambda item: item.args,
    wire.Upload: lambda item: (item.id,),
    wire.Fetch: lambda item: (item.id,),
    wire.Query: lambda item: [id for id, _ in item.ins],
    wire.SaveFile: lambda item: [id for id, _ in item.tensors.values()],
}
"""The storages that an instruction reads or writes; an operation's numbers among them do no harm."""
WRITTEN: dict[type, Callable[[Any], Iterable[Any]]] = {
    wire.Op: lambda item: [item.args[position] for position in definitions.written(item.call)],
    wire.Upload: lambda item: (item.id,),
    wire.Query: lambda item: [item.ins[position][0] for position in item.writes],
}


class Link:
    """An array and the part of a storage whose elements it has; `seen`: the bytes of both, row-major, when they were equal.

    It keeps the array, or another one over the same memory, since a program may write to it and drop it.
    """

    def __init__(self, array: Array, spec: TensorSpec, seen: Buffer | None = None) -> None:
        self.array = array
        self.spec = spec
        self.seen = array.tobytes() if seen is None else seen

    def is_of_use(self) -> bool:
        """Whether anybody else has the array, or one whose memory it uses."""
        own, *others = self.references()
        return own > ALONE[0] or any(count > ALONE[1] for count in others)

    def references(self) -> list[int]:
        """How many references there are to the array, and to those whose memory it uses."""
        found: list[int] = []
        array: Array | None = self.array
        while isinstance(array, numpy.ndarray):
            found.append(sys.getrefcount(array))
            array = array.base
        return found if array is None else [*found, sys.maxsize]

    def was_changed(self) -> bool:
        """Whether something was written to the array."""
        whole, seen = numpy.ascontiguousarray(self.array), numpy.frombuffer(self.seen, numpy.uint8)
        return bool(_memcmp(whole.ctypes.data, seen.ctypes.data, seen.nbytes))

    def take(self, fetched: Buffer) -> None:
        """Let the array have the storage's elements, but for those that were written since."""
        new = numpy.frombuffer(fetched, self.array.dtype).reshape(self.array.shape)
        if self.was_changed():
            both = self.array.tobytes(), self.seen
            own, seen = (numpy.frombuffer(b, numpy.uint8).reshape(*new.shape, -1) for b in both)
            new = numpy.where((own != seen).any(-1), self.array, new)
        self.array[...] = new
        self.seen = fetched


class ResultLink(Link):
    """The link of an array that was made of a tensor; `array` is another one over its memory."""

    result: weakref.ref[Array]

    def is_of_use(self) -> bool:
        """Whether the array, or a view of it, is still there."""
        return self.result() is not None


_ONE = intern(torch.Size((1,)), (1,), 0, torch.float64)
ALONE = Link(numpy.empty(2)[1:], _ONE).references()
"""The references to an array that only a link has, and to one whose memory only that one uses."""


class Links:
    """The links of this process, by storage id."""

    def __init__(self) -> None:
        self._by_id: dict[int, list[Link]] = {}
        self._copying: int | None = None
        """The thread that is copying an array."""
        process.when_closed.append(self._by_id.clear)

    def add_source(self, tensor: torch.Tensor, array: Array) -> None:
        """Link a remote tensor to the array that it was made of."""
        number, spec, _ = operands.operand(tensor)
        self._add(number, Link(array, spec))

    def add_result(self, tensor: torch.Tensor, array: Array, own: Array, seen: Buffer) -> None:
        """Link a remote tensor to an array that was made of it.

        `own`: another array over the same memory; `seen`: its bytes, row-major, in other memory.
        """
        number, spec, _ = operands.operand(tensor)
        link = ResultLink(own, spec, seen)
        link.result = weakref.ref(array, functools.partial(self._end, number, weakref.ref(link)))
        self._add(number, link)

    def _add(self, number: int, link: Link) -> None:
        if link.array.size:
            self._by_id.setdefault(number, []).append(link)
            kind = type(recorder.segment)
            recorder.segment.__class__ = LOOKING.get(kind, kind)  # type: ignore[assignment]

    def _end(self, number: int, found: weakref.ref[Link], _: object) -> None:
        """An array that was made of a tensor is gone; what was written to it is still to be sent."""
        if (link := found()) is not None and not link.was_changed():
            self._drop(number, link)

    def is_empty(self) -> bool:
        """Whether there is none."""
        return not self._by_id

    def forget(self, number: int) -> None:
        """A storage has died."""
        self._by_id.pop(number, None)

    def before(self, item: wire.Instruction) -> None:
        """Send the arrays that were changed among those that an instruction is about to use."""
        for number in self._linked(USED, item):
            self.bring(number)

    def bring(self, number: int) -> None:
        """Send the arrays of a storage that were changed."""
        for link in self._by_id.get(number, ())[:]:
            if link.was_changed():
                self._send(number, link)
            if not link.is_of_use():
                self._drop(number, link)

    def after(self, item: wire.Instruction) -> None:
        """Fetch what an instruction writes into the arrays."""
        for number in self._linked(WRITTEN, item):
            self._fetch(number, self._by_id.get(number, ())[:])

    def _linked(self, table: dict[type, Callable[[Any], Iterable[Any]]], item: Any) -> list[int]:
        named = table.get(type(item))
        if named is None or self._copying == get_ident():
            return []
        return [number for number in named(item) if type(number) is int and number in self._by_id]

    def _send(self, number: int, link: Link) -> None:
        operands.check_kept(number)  # the worker would take the upload for a new tensor
        whole = numpy.array(link.array, order="C")
        link.seen = whole.reshape(-1).view(numpy.uint8).data
        with self._copies():
            recording.upload(torch.from_numpy(whole), number, link.spec, sites.here())
        self._fetch(number, [other for other in self._by_id.get(number, ()) if other is not link])

    def _fetch(self, number: int, links: Iterable[Link]) -> None:
        for link in links:
            if not link.is_of_use() and not link.was_changed():
                self._drop(number, link)
            elif link.array.flags.writeable:
                request = functools.partial(wire.Fetch, id=number, geometry=link.spec.to_wire())
                with self._copies():
                    _, data = process.session().ask(request)
                link.take(data.map() if isinstance(data, Shared) else data)

    @contextmanager
    def _copies(self) -> Iterator[None]:
        """What is recorded meanwhile is this object's own."""
        before, self._copying = self._copying, get_ident()
        try:
            yield
        finally:
            self._copying = before

    def _drop(self, number: int, link: Link) -> None:
        left = [other for other in self._by_id.get(number, ()) if other is not link]
        if left:
            self._by_id[number] = left
        else:
            self.forget(number)


class Looking(Segment):
    """The segment while there are links. Its class is changed in place, since a kernel may be about to append to it."""

    __slots__ = ()

    def append(self, item: wire.Instruction) -> None:
        """Record an instruction."""
        if links.is_empty():
            kind, plain = type(self), PLAIN[type(self)]
            self.__class__ = plain  # type: ignore[assignment]
            if not links.is_empty():  # another thread has just made one
                self.__class__ = kind
            plain.append(self, item)
        elif type(item) is int:
            links.forget(item)
            super().append(item)
        else:
            links.before(item)
            super().append(item)
            links.after(item)


class LookingAndWatched(Looking, Watched):
    """The same of a segment that says in which scope a backward pass is."""

    __slots__ = ()


LOOKING = {Segment: Looking, Watched: LookingAndWatched}
PLAIN = {looking: plain for plain, looking in LOOKING.items()}
links = Links()
