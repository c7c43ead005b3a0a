"""Blocks of the program, `with gt.scope(name):`, that a configuration places: what enters and what leaves them.

A storage leaves a block when it was made inside and is used outside; it enters one when it was made outside and is used
inside. What the backward pass of a block makes was made inside, too.
"""

from __future__ import annotations

from collections.abc import Callable

from gt.placement.layout import Placements, ScopeRule
from gt.wire import instructions as wire


class _Block:
    """One time that a program was in a block. `held`: how many storages of it are still inside."""

    __slots__ = ("entered", "held", "is_open", "number", "outer", "rule")

    def __init__(self, number: int, rule: ScopeRule, outer: _Block | None) -> None:
        self.number = number
        self.rule = rule
        self.outer = outer
        self.is_open = True
        self.held = 0
        self.entered: set[int] = set()

    def is_in(self, other: _Block) -> bool:
        """Whether it is that block or inside of it."""
        return self is other or (self.outer is not None and self.outer.is_in(other))


class Blocks:
    """The blocks of one session that have a rule (`rule_of` their name), and the storages that were made in them, by id."""

    def __init__(self, rule_of: Callable[[str], ScopeRule | None]) -> None:
        self._rule_of = rule_of
        self._blocks: dict[int, _Block] = {}
        self._open: list[_Block] = []
        self.backward = False
        """Whether the program is in its backward pass."""
        self.made_in: dict[int, tuple[_Block, bool]] = {}
        """Each with whether it was made in the backward pass."""

    @property
    def are_used(self) -> bool:
        """Whether something may enter or leave a block now."""
        return bool(self._open or self.made_in)

    @property
    def are_idle(self) -> bool:
        """Whether nothing is known of any block."""
        return not (self._blocks or self._open or self.made_in)

    def now(self, item: wire.Scope) -> None:
        """The program, or its backward pass, has come to a scope."""
        for block in self._open:
            block.is_open = False
            self._drop_if_done(block)
        self._open = []
        self.backward = item.backward
        for number, name in item.blocks:
            if (entered := self._block(number, name)) is not None:
                entered.is_open = True
                self._open.append(entered)

    def _block(self, number: int, name: str) -> _Block | None:
        block = self._blocks.get(number)
        if block is None and (rule := self._rule_of(name)) is not None:
            block = self._blocks[number] = _Block(number, rule, self._open[-1] if self._open else None)
        return block

    def made(self, id: int) -> None:
        """A storage was made now."""
        if self._open:
            self._put(id, self._open[-1], self.backward)

    def _put(self, id: int, block: _Block | None, backward: bool) -> None:
        """A storage is now inside of a block and of no other; None: of none."""
        before, _ = self.made_in.pop(id, (None, False))
        if before is not None:
            before.held -= 1
            self._drop_if_done(before)
        if block is not None:
            self.made_in[id] = block, backward
            block.held += 1

    def _drop_if_done(self, block: _Block) -> None:
        if not block.held and not block.is_open:
            self._blocks.pop(block.number, None)

    def free(self, id: int) -> None:
        """A storage is freed."""
        self._put(id, None, False)

    def crossed(self, id: int) -> list[Placements]:
        """Where a storage that is used now has to be, one after the other, for the blocks that it leaves or enters so."""
        inner, backward = self.made_in.get(id, (None, False))
        block, found = inner, []
        while block is not None and not block.is_open:
            found.append(block.rule.on_side("backward" if backward else "out"))
            block = block.outer
        if block is not inner:
            self._put(id, block, backward)
        for entered in () if self.backward else self._open:
            if id not in entered.entered and not (block is not None and block.is_in(entered)):
                entered.entered.add(id)
                found.append(entered.rule.inputs)
        return found
