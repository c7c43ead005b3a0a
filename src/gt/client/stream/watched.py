"""A segment that says in which scope a backward pass is: that in which forward made the node that runs."""

from __future__ import annotations

from bisect import bisect_right

import msgspec
import torch

from gt.client.stream.segment import Segment, recorder
from gt.wire import instructions as wire

_node = torch._C._current_autograd_node
_next_node = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]
UNNUMBERED = 1 << 63
"""Nodes from this number on, which accumulate gradients, were made by no call."""
MOST_SCOPES = 1 << 16
"""Scopes that are kept: the nodes of long ago count as made outside of all."""
TOP = wire.Scope("")


class Watched(Segment):
    """Records a `Scope` whenever a backward pass comes to a node that was made in another one.

    Autograd numbers its nodes as they are made, so a node belongs to the scope that was open when its number was given.
    """

    __slots__ = ("_begins", "_now", "_scopes")

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._begins = [0]
        self._scopes = [TOP]
        """The scope of the nodes that were made from each of `_begins` on; the last one is the program's now."""
        self._now = TOP

    def append(self, item: wire.Instruction) -> None:
        """Record an instruction."""
        if type(item) is wire.Scope:
            self._now = item
            if _node() is None:
                self._begin(item)
        elif type(item) is wire.Op:
            if (node := _node()) is not None:
                self._enter(node._sequence_nr())
            elif self._now.backward:
                self.leave_backward()
        super().append(item)

    def _begin(self, item: wire.Scope) -> None:
        if len(self._begins) == MOST_SCOPES:
            del self._begins[1 : MOST_SCOPES // 2], self._scopes[: MOST_SCOPES // 2 - 1]
            self._scopes[0] = TOP
        self._begins.append(_next_node())
        self._scopes.append(item)

    def _enter(self, number: int) -> None:
        if number < UNNUMBERED:
            made_in = self._scopes[bisect_right(self._begins, number) - 1]
            if (made_in.path, made_in.blocks) != (self._now.path, self._now.blocks) or not self._now.backward:
                self._now = msgspec.structs.replace(made_in, backward=True)
                super().append(self._now)

    def leave_backward(self) -> None:
        """Go back to the scope that is open in the program."""
        if self._now != self._scopes[-1]:
            self._now = self._scopes[-1]
            super().append(self._now)


def watch() -> None:
    """Let this process record so from now on."""
    if not isinstance(recorder.segment, Watched):
        watched = Watched(recorder.segment.limit)
        watched.extend(recorder.segment)
        watched.frames = recorder.segment.frames
        recorder.segment = watched
