"""Of an embedding's gradient that is added to another and freed only the tokens' rows are made, with the bits of the sum."""

from __future__ import annotations

import pytest
import torch

from gt.wire import instructions as wire
from gt.worker.execute import Worker
from gt.worker.geometry import dtype_of
from tests.unit.test_reuse import bits
from tests.unit.test_worker_calls import ask

ROWS, WIDTH, TOKENS = 1024, 64, 256
GRADIENT, INDICES, OTHER, PART, SUM = 1, 2, 3, 4, 5
"""Ids."""


def geometry(dtype: str, *size: int, turned: bool = False) -> wire.Geometry:
    strides = (1, size[0]) if turned else (*size[1:], 1)
    return wire.Geometry(size, strides, 0, dtype)


class Running:
    """A worker that has run an embedding's gradient, and its sum with another one, once before."""

    def __init__(
        self, tokens: torch.Tensor, dtype: str, first: bool, turned: bool = False, padding: int = -1, scaled: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.worker = Worker("cpu")
        self.whole, kind = geometry(dtype, ROWS, WIDTH), dtype_of(dtype)
        self.other = geometry(dtype, ROWS, WIDTH, turned=turned)
        grad = torch.randn(len(tokens), WIDTH).to(kind)
        own = torch.randn(ROWS, WIDTH).to(kind)
        own[::3], own[1::7, 0], grad[0], own[5, 3], grad[1, 3] = -0.0, torch.inf, -0.0, torch.nan, -torch.inf
        own = own.t().contiguous().t() if turned else own
        part = torch.ops.aten.embedding_dense_backward.default(grad, tokens, ROWS, padding, scaled)
        self.expected = own + part if first else part + own
        ins = [geometry(dtype, len(tokens), WIDTH), geometry(str(tokens.dtype).removeprefix("torch."), len(tokens))]
        args = [wire.In(0), wire.In(1), ROWS, padding, scaled]
        self.out = self.other if first or not turned else self.whole
        pair = [self.other, self.whole] if first else [self.whole, self.other]
        items = [
            wire.Define(1, "aten::embedding_dense_backward", args, {}, ins, [self.whole]),
            wire.Define(2, "aten::add.Tensor", [wire.In(0), wire.In(1)], {}, pair, [self.out]),
        ]  # fmt: skip
        frames = []
        for id, given, like in zip((GRADIENT, INDICES, OTHER), (grad, tokens, own), (*ins, self.other), strict=True):
            clone = wire.Define(10 + id, "aten::clone", [wire.In(0)], {}, [like], [like])
            items += [wire.Upload(20 + id, like, len(frames), 0), clone, wire.Op(10 + id, id, (20 + id,), 0)]
            frames.append(bits(given))
        self.pair = (OTHER, PART) if first else (PART, OTHER)
        both = [wire.Op(1, PART, (GRADIENT, INDICES), 0), wire.Op(2, SUM, self.pair, 0), SUM, PART]
        ask(self.worker, [*items, *both, *both], frames)
        (self.session,) = self.worker.host.sessions.values()

    def run(self, freed: list[int], fetched: list[wire.Instruction]) -> tuple[bool, list[bytes]]:
        """Run both calls. Returns whether all rows of the part were made, and the answers."""
        usage = self.session.memory.usage
        usage.peak_bytes(reset=True)
        before = usage.bytes()
        rest = [wire.Op(1, PART, (GRADIENT, INDICES), 0), GRADIENT, INDICES, wire.Op(2, SUM, self.pair, 0), *freed]
        _, data = ask(self.worker, [*rest, wire.Fetch(9, SUM, self.out), *fetched], [])
        return usage.peak_bytes() > before, data


REPEATED = torch.arange(TOKENS) * 7 % 100


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("first", [True, False])
def test_only_the_rows_of_tokens_are_made_and_the_sum_has_pytorchs_bits(dtype: str, first: bool) -> None:
    running = Running(REPEATED, dtype, first)
    assert running.run([OTHER, PART], []) == (False, [bits(running.expected)])


@pytest.mark.parametrize(("padding", "scaled"), [(7, False), (999, False), (-1, True), (7, True)])
def test_padding_and_frequencies_are_those_of_the_whole_gradient(padding: int, scaled: bool) -> None:
    running = Running(REPEATED.int(), "float32", True, padding=padding, scaled=scaled)
    assert running.run([PART, OTHER], []) == (False, [bits(running.expected)])


def test_the_other_gradient_may_have_other_strides() -> None:
    running = Running(REPEATED, "float32", True, turned=True)
    assert running.run([OTHER, PART], []) == (False, [bits(running.expected)])


@pytest.mark.parametrize("freed", [[], [PART], [OTHER]])
def test_it_is_made_where_it_or_the_other_one_is_needed_later(freed: list[int]) -> None:
    running = Running(REPEATED, "float32", True)
    kept = [wire.Fetch(10, id, running.whole) for id in (PART, OTHER) if id not in freed]
    is_made, (data, *_) = running.run(freed, kept)
    assert (is_made, data) == (True, bits(running.expected))


@pytest.mark.parametrize("tokens", [torch.arange(ROWS), REPEATED - 1, REPEATED + ROWS - 50])
def test_it_is_made_for_many_tokens_and_for_some_that_do_not_exist(tokens: torch.Tensor) -> None:
    running = Running(tokens, "float32", True)
    assert running.run([OTHER, PART], []) == (True, [bits(running.expected)])
