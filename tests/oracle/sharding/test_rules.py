"""The table of rules, sampled; for all of it run `python -m tests.oracle.sharding.rules`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing._internal.common_methods_invocations import op_db

from gt.placement.digit import Partial
from gt.planning import rules
from gt.planning.rule import LabelGroup, Rule
from gt.planning.rules.pointwise_names import TAGGED, TORCH
from gt.wire import instructions as wire
from tests.oracle.sharding import handmade, pointwise, recorded
from tests.oracle.sharding.recorded import Call
from tests.oracle.sharding.rules import Totals, try_calls

ENTRIES = [e for i, e in enumerate(op_db) if i % 60 == 7]


def recorded_by(program: Callable[[], Any]) -> list[Call]:
    with recorded.recording() as calls:
        torch.manual_seed(3)
        program()
        recorded.finish()
        return calls


def found_by(program: Callable[[], Any], op: str) -> list[Rule | None]:
    """The rules of a program's calls of one operator."""
    return [rules.find(c.define) for c in recorded_by(program) if c.define.op.removeprefix("aten::") == op]


def try_program(program: Callable[[], Any], op: str = "*", per_op: int | None = None) -> Totals:
    return try_calls(recorded_by(program), random.Random(0), limit=2 if per_op else None, only=op, per_op=per_op)


@pytest.mark.parametrize("program", handmade.PROGRAMS, ids=lambda p: p.__name__)
def test_local_calls_make_what_the_whole_call_makes(program: Callable[[], None]) -> None:
    totals = try_program(program, per_op=1)
    assert totals.tried
    assert totals.wrong == []


def test_a_sample_of_the_operator_database_too() -> None:
    calls = [call for entry in ENTRIES for call in recorded.of_entry(entry, (torch.float32,), 1)]
    totals = try_calls(calls, random.Random(0), limit=2, per_op=1)
    assert totals.tried
    assert totals.wrong == []


def test_the_pointwise_operators_are_those_that_pytorch_tags() -> None:
    if pointwise.version() != TORCH:
        pytest.skip(f"the list is that of PyTorch {TORCH}")
    assert pointwise.tagged() == TAGGED, "run `python -m tests.oracle.sharding.pointwise`"


# -- a rule that is wrong is noticed -------------------------------------------------------------------------------------

Change = Callable[[LabelGroup], LabelGroup]


def _normalise() -> None:
    nn.BatchNorm1d(6).to("remote")(torch.randn(6, 6, device="remote"))


def _multiply() -> None:
    torch.mm(torch.randn(4, 6, device="remote"), torch.randn(6, 2, device="remote"))


def _add_bias() -> None:
    nn.Linear(6, 4).to("remote")(torch.randn(2, 6, device="remote"))


def _take_mean() -> None:
    torch.randn(6, device="remote").mean()


def _take_norm() -> None:
    torch.linalg.vector_norm(torch.randn(6, device="remote"))


def _add_up() -> None:
    torch.randn(6, device="remote").cumsum(0)


def _take_product() -> None:
    torch.randn(4, device="remote") * torch.randn(4, device="remote")


BROKEN: list[tuple[str, Callable[[], None], Change]] = [
    ("mm", _multiply, lambda g: replace(g, sums={})),
    ("linear", _add_bias, lambda g: replace(g, once={})),
    ("mean", _take_mean, lambda g: replace(g, partial=Partial.SUM)),
    ("linalg_vector_norm", _take_norm, lambda g: replace(g, partial=Partial.SUM)),
    ("cumsum", _add_up, lambda g: LabelGroup({0: (0,)}, {0: (0,)}, frozenset({0}))),
    ("native_batch_norm", _normalise, lambda g: replace(g, written=frozenset())),
    ("native_batch_norm", _normalise, lambda g: replace(g, may_shard=frozenset({"b"}))),
    ("mul.Tensor", _take_product, lambda g: replace(g, passes=frozenset({Partial.SUM}))),
]


@pytest.mark.parametrize(("name", "program", "change"), BROKEN, ids=lambda x: x if isinstance(x, str) else "")
def test_a_broken_rule_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, program: Callable[[], None], change: Change
) -> None:
    row = rules.TABLE[name]

    def broken(define: wire.Define) -> Rule | None:
        found = row(define)
        return None if found is None else replace(found, groups=tuple(change(g) for g in found.groups))

    assert try_program(program, f"aten::{name}").wrong == []
    monkeypatch.setitem(rules.TABLE, name, broken)
    assert try_program(program, f"aten::{name}").wrong


def test_a_size_that_is_not_localised_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def program() -> None:
        torch.randn(6, 4, device="remote").requires_grad_()[:, 1:3].sum().backward()

    row = rules.TABLE["slice_backward"]
    monkeypatch.setitem(rules.TABLE, "slice_backward", lambda d: replace(row(d), localise=None))  # type: ignore[type-var]
    assert try_program(program, "aten::slice_backward").wrong


# -- what is right only whole has no rule, or no label -------------------------------------------------------------------


def _labels(found: Rule | None) -> set[Any]:
    return set() if found is None else {label for g in found.groups for label in g.may_shard}


def test_attention_with_dropout_has_no_rule() -> None:
    q = [torch.randn(2, 2, 4, 4) for _ in range(3)]
    found = found_by(
        lambda: F.scaled_dot_product_attention(*(t.to("remote") for t in q), dropout_p=0.5), "scaled_dot_product_attention"
    )
    assert found == [None]


def test_heads_of_grouped_queries_stay_whole() -> None:
    def attend() -> None:
        q, k = torch.randn(2, 4, 6, 4, device="remote"), torch.randn(2, 2, 6, 4, device="remote")
        F.scaled_dot_product_attention(q, k, k, enable_gqa=True)

    (found,) = found_by(attend, "scaled_dot_product_attention")
    assert _labels(found) == {0}


@pytest.mark.parametrize(("training", "labels"), [(True, {"c"}), (False, {"b", "c"})])
def test_in_training_batch_norm_needs_the_whole_batch(training: bool, labels: set[str]) -> None:
    def normalise() -> None:
        nn.BatchNorm1d(4).to("remote").train(training)(torch.randn(6, 4, device="remote"))

    (found,) = found_by(normalise, "native_batch_norm")
    assert _labels(found) == labels


def test_the_gradient_of_a_mean_loss_is_sharded_by_a_lowering_only() -> None:
    def lose() -> None:
        F.mse_loss(torch.randn(4, device="remote").requires_grad_(), torch.randn(4, device="remote")).backward()

    (found,) = found_by(lose, "mse_loss_backward")
    assert found is not None
    assert found.lowered == found.groups[0].may_shard


def test_scaling_by_frequency_needs_all_indices() -> None:
    def embed() -> None:
        table = torch.randn(6, 4, device="remote").requires_grad_()
        F.embedding(torch.arange(4, device="remote"), table, scale_grad_by_freq=True).sum().backward()

    (found,) = found_by(embed, "embedding_dense_backward")
    assert _labels(found) == {"d"}


def test_a_norm_whose_order_varies_has_no_rule() -> None:
    g, scalar = wire.Geometry((4,), (1,), 0, "float32"), wire.Geometry((), (), 0, "float32")
    vary, fixed = ([wire.In(0), order] for order in (wire.Number(0), 2))
    assert rules.find(wire.Define(1, "aten::linalg_vector_norm", vary, {}, [g], [scalar])) is None
    assert rules.find(wire.Define(1, "aten::linalg_vector_norm", fixed, {}, [g], [scalar])) is not None


def test_a_sum_of_rounded_parts_is_not_passed_on() -> None:
    def round_off() -> None:
        torch.randn(4, device="remote").half()
        torch.randn(4, device="remote").double()

    narrow, wide = found_by(round_off, "_to_copy")
    assert narrow is not None
    assert wide is not None
    assert narrow.groups[0].passes == frozenset()
    assert wide.groups[0].passes == {Partial.SUM, Partial.AVERAGE}


def test_an_output_that_is_resized_has_no_rule() -> None:
    g, out = wire.Geometry((4,), (1,), 0, "float32"), wire.Geometry((2,), (1,), 0, "float32")
    define = wire.Define(1, "aten::add.out", [wire.In(0), wire.In(1)], {"out": wire.In(2)}, [g, g, out], [], writes=(2,))
    assert rules.find(define) is None
