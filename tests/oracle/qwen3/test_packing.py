"""Batches: packed, bucketed and plain ones hold the same tokens and targets; damaged prepared rows are refused."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

IGNORED = -100
PAD = 1019


def rows_of(scripts: ModuleType, lengths: list[int]) -> object:
    """Rows whose every id and label differs from all others."""
    total = sum(lengths)
    labels = np.where(np.arange(total) % 3 == 0, IGNORED, np.arange(total) + 10_000)
    return scripts.prepared.Rows(np.arange(total), labels, np.cumsum([0, *lengths]))


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, width=st.integers(40, 100))
def test_packed_rows_hold_every_document_once_and_fit(scripts: ModuleType, lengths: list[int], width: int) -> None:
    rows = rows_of(scripts, lengths)
    packed = scripts.packing.Packed.of(rows, width)
    assert sorted(row for members in packed.bins for row in members) == list(range(len(lengths)))
    assert packed.lengths.tolist() == [sum(lengths[row] for row in members) for members in packed.bins]
    assert packed.lengths.max() <= width
    assert len(packed) == 1 or sum(sorted(packed.lengths)[:2]) > width
    assert packed.tokens(np.arange(len(packed))) == sum(lengths)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, data=st.data())
def test_a_document_in_a_packed_batch_is_the_row_alone(scripts: ModuleType, lengths: list[int], data: st.DataObject) -> None:
    """Its ids and targets are those of the unpacked row, its positions start at 0; padding has a number of its own."""
    rows = rows_of(scripts, lengths)
    packed = scripts.packing.Packed.of(rows, 64)
    chosen = np.array(data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=4)))
    batch = packed.batch(chosen, PAD)
    assert {array.dtype for array in vars(batch).values()} == {np.dtype(np.int64)}
    shape = (len(chosen), scripts.prepared.padded(packed.lengths[chosen].max()))
    assert {array.shape for array in vars(batch).values()} == {shape}
    for line, place in enumerate(chosen):
        for number, row in enumerate(packed.bins[place]):
            here = batch.documents[line] == number
            alone = rows.batch(np.array([row]), PAD)
            length = lengths[row]
            assert batch.ids[line, here].tolist() == alone.ids[0, :length].tolist()
            assert batch.targets[line, here].tolist() == alone.targets[0, :length].tolist()
            assert batch.targets[line, here][-1] == IGNORED
            assert batch.positions[line, here].tolist() == list(range(length))
        rest = batch.documents[line] >= len(packed.bins[place])
        assert set(batch.documents[line, rest]) <= {len(packed.bins[place])}
        assert (batch.ids[line, rest] == PAD).all()
        assert (batch.targets[line, rest] == IGNORED).all()
        assert (np.diff(batch.documents[line]) >= 0).all()
    assert batch.count == sum(rows.batch(np.array([row]), PAD).count for place in chosen for row in packed.bins[place])


def test_best_fit_decreasing_fills_the_tightest_gap(scripts: ModuleType) -> None:
    fit = scripts.packing.best_fit_decreasing
    assert fit(np.array([3, 7, 5, 4, 1]), 10) == [[1, 0], [2, 3, 4]]
    assert fit(np.array([10, 10]), 10) == [[0], [1]]
    assert fit(np.array([6, 8, 2, 4]), 10) == [[1, 2], [0, 3]]
    with pytest.raises(scripts.problems.UserError, match=r"^--max-tokens 9: a prepared row has 10 tokens"):
        scripts.packing.Packed.of(rows_of(scripts, [3, 10]), 9)


def test_packed_and_plain_batches_have_the_same_loss_and_gradients(made: Path, scripts: ModuleType) -> None:
    """Under `transformers`' model in float64, with the mask that keeps documents apart."""
    rows = scripts.prepared.Rows.open(made / "prepared" / "train", 1024)
    few = scripts.prepared.Rows(rows.ids, rows.labels, rows.offsets[:13])
    model = AutoModelForCausalLM.from_pretrained(made / "qwen3", dtype=torch.float64, attn_implementation="eager")

    def loss(batch: object, **options: torch.Tensor) -> torch.Tensor:
        logits = model(torch.from_numpy(batch.ids), use_cache=False, **options).logits.flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.targets).flatten(), reduction="sum")

    def gradients() -> torch.Tensor:
        found = torch.cat([p.grad.flatten() for p in model.parameters()])
        model.zero_grad()
        return found

    plain = loss(few.batch(np.arange(12), PAD))
    plain.backward()
    expected = gradients()
    packed = scripts.packing.Packed.of(few, 128)
    batch = packed.batch(np.arange(len(packed)), PAD)
    assert len(packed) < 6
    documents = torch.from_numpy(batch.documents)
    apart = (documents[:, :, None] == documents[:, None, :]).tril()
    mask = torch.zeros(apart.shape, dtype=torch.float64).masked_fill(~apart, float("-inf"))
    together = loss(batch, attention_mask=mask[:, None], position_ids=torch.from_numpy(batch.positions))
    together.backward()
    assert together.item() == pytest.approx(plain.item(), rel=1e-12)
    assert (gradients() - expected).norm() <= 1e-12 * expected.norm()


def options(**others: object) -> argparse.Namespace:
    return argparse.Namespace(**{"seed": 3, "epochs": 2, "batch_size": 4, "accumulate": 2, "bucket": False} | others)


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 9), bucket=st.booleans())
def test_an_epoch_has_every_row_once(scripts: ModuleType, lengths: list[int], seed: int, bucket: bool) -> None:
    rows = rows_of(scripts, lengths)
    found = list(scripts.packing.batches(rows, options(seed=seed, bucket=bucket)))
    per_epoch = -(-len(rows) // 8)
    assert [step for step, _ in found] == list(range(2 * per_epoch))
    for epoch in (found[:per_epoch], found[per_epoch:]):
        chosen = [row for _, micro_batches in epoch for batch in micro_batches for row in batch.tolist()]
        assert sorted(chosen) == list(range(len(rows)))
        assert all(len(batch) == 4 for _, micro_batches in epoch[:-1] for batch in micro_batches)


def test_buckets_hold_rows_of_similar_lengths_in_an_order_of_the_seed(scripts: ModuleType) -> None:
    random = np.random.default_rng(0)
    rows = rows_of(scripts, random.integers(2, 200, 330).tolist())

    def chosen(**others: object) -> list[list[list[int]]]:
        return [[batch.tolist() for batch in found] for _, found in scripts.packing.batches(rows, options(**others))]

    assert chosen(bucket=True) == chosen(bucket=True) != chosen(bucket=True, seed=4)
    assert chosen(bucket=True)[:42] != chosen(bucket=True)[42:]
    spread = [np.ptp(rows.lengths[np.concatenate(group)]) for group in chosen(bucket=True)]
    assert max(spread) <= 15
    means = [rows.lengths[np.concatenate(group)].mean() for group in chosen(bucket=True)[:41]]
    assert means != sorted(means)
    shares = [scripts.packing.padding(rows, options(bucket=bucket)) for bucket in (False, True)]
    made = []
    for bucket in (False, True):
        first = [batch for group in chosen(bucket=bucket, epochs=1) for batch in group]
        made.append(sum(scripts.prepared.padded(rows.lengths[batch].max()) * len(batch) for batch in first))
    assert shares == [1 - rows.lengths.sum() / tokens for tokens in made]
    assert shares[1] < 0.1 < shares[0]


def test_the_order_without_buckets_is_the_permutation_of_the_seed(scripts: ModuleType) -> None:
    random = np.random.default_rng(3)
    expected = [random.permutation(10).tolist() for _ in range(2)]
    found = [row for _, group in scripts.packing.batches(rows_of(scripts, [2] * 10), options()) for b in group for row in b]
    assert found == expected[0] + expected[1]


# -- prepared rows on disk -----------------------------------------------------------------------------------------------


def overwritten(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / f"{name}.npy"
        changed = change(np.load(path))
        np.save(path, changed)

    return damage


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def at(index: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut("ids.npy", 0), "ids.npy: No data left in file; prepare the data again"),
        (cut("labels.npy", 60), "labels.npy: "),
        (cut("offsets.npy", 200), "offsets.npy: "),
        (cut("ids.npy", 2000), "ids.npy: "),
        (lambda folder: (folder / "ids.npy").write_bytes(b"\x80\x04."), "ids.npy: "),
        (lambda folder: (folder / "ids.npy").write_bytes(b"\x93NUMPY\x01\x00\x08\x00{'a': (\n"), "ids.npy: "),
        (overwritten("ids", lambda ids: ids.astype(np.float32)), "ids.npy: not an array of int32 with one dimension"),
        (overwritten("labels", lambda labels: labels[None]), "labels.npy: not an array of int32 with one dimension"),
        (overwritten("offsets", lambda offsets: offsets[:1]), "held_out: no rows"),
        (overwritten("offsets", lambda offsets: offsets[:0]), "held_out: no rows"),
        (overwritten("offsets", at(3, 1)), "offsets.npy: does not rise from 0"),
        (overwritten("offsets", lambda offsets: np.repeat(offsets, 2)), "offsets.npy: does not rise from 0"),
        (overwritten("offsets", at(0, 1)), "offsets.npy: does not rise from 0"),
        (overwritten("offsets", at(0, -1)), "offsets.npy: does not rise from 0"),
        (overwritten("offsets", lambda offsets: offsets[:-1]), "held_out: ids, labels and offsets do not match"),
        (overwritten("labels", lambda labels: labels[1:]), "held_out: ids, labels and offsets do not match"),
        (overwritten("ids", at(-1, 1024)), "held_out: prepared for another model: token 1024 of a vocabulary of 1024"),
        (overwritten("ids", at(5, -1)), "held_out: prepared for another model: token -1 of a vocabulary of 1024"),
        (overwritten("labels", at(-1, 1024)), "held_out: prepared for another model: label 1024 of a vocabulary of 1024"),
        (overwritten("labels", at(0, -99)), "held_out: prepared for another model: label -99 of a vocabulary of 1024"),
        (overwritten("labels", lambda labels: labels * 0 + IGNORED), "tokens has no target"),
        (lambda folder: (folder / "questions.json").write_text("{"), "questions.json: not a list of questions"),
        (lambda folder: (folder / "questions.json").write_text("5"), "questions.json: not a list of questions"),
        (
            lambda folder: (folder / "questions.json").write_text('[{"number": 1}]'),
            "questions.json: not a list of questions",
        ),
        (lambda folder: (folder / "questions.json").write_text("[]"), "questions.json: does not match the rows"),
        (lambda folder: (folder / "questions.json").unlink(), "questions.json"),
        (lambda folder: (folder.parent / "chat.json").write_text("[]"), "chat.json: expected an object"),
        (lambda folder: (folder.parent / "chat.json").write_text("{}"), "prepared for another model: its tokenizer is not"),
    ],
)
def test_damaged_prepared_rows_are_refused_in_a_line(
    damage: Callable[[Path], None], told: str, made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    folder = shutil.copytree(made / "prepared", tmp_path / "prepared")
    damage(folder / "held_out")
    with pytest.raises((scripts.problems.UserError, FileNotFoundError)) as caught:
        scripts.evaluation.HeldOut.open(folder, made / "qwen3", 1024)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_questions_and_ends_that_do_not_fit_are_refused(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    folder = shutil.copytree(made / "prepared", tmp_path / "prepared")
    path = folder / "held_out" / "questions.json"
    for key, value, told in (("prompt_tokens", 9000, "begins beyond its row"), ("answer", 5, "does not match the rows")):
        questions = json.loads((made / "prepared" / "held_out" / "questions.json").read_text())
        questions[3][key] = value
        path.write_text(json.dumps(questions))
        with pytest.raises(scripts.problems.UserError, match=f"questions.json: .*{told}"):
            scripts.evaluation.HeldOut.open(folder, made / "qwen3", 1024)
    about = json.loads((folder / "chat.json").read_text())
    (folder / "chat.json").write_text(json.dumps({**about, "end": "<none>"}))
    with pytest.raises(scripts.problems.UserError, match=r"chat\.json: names no token that ends an answer"):
        scripts.evaluation.HeldOut.open(folder, made / "qwen3", 1024)


def test_rows_are_written_one_by_one_as_numpy_saves_them(tmp_path: Path, scripts: ModuleType) -> None:
    rows = [([5, 6, 7], [IGNORED, 6, 7]), ([8, 9], [8, 9])]
    with scripts.prepared.Writer(tmp_path / "rows") as writer:
        for ids, labels in rows:
            writer.add(ids, labels)
    for name, content, dtype in (
        ("ids", [5, 6, 7, 8, 9], np.int32),
        ("labels", [IGNORED, 6, 7, 8, 9], np.int32),
        ("offsets", [0, 3, 5], np.int64),
    ):
        np.save(tmp_path / "expected.npy", np.array(content, dtype))
        assert (tmp_path / "rows" / f"{name}.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert len(scripts.prepared.Rows.open(tmp_path / "rows", 10)) == 2
