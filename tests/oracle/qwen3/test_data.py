"""prepare_data.py: which rows are kept, cut, split and dropped, what it tells of them, and what it writes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.oracle.qwen3.conftest import OpenChat, row

OPENS = "{% if add_generation_prompt %}{{ messages | map(attribute='content') | join }}<think>{% endif %}"


def test_what_a_template_does_with_rows_is_told_in_a_line(chat: OpenChat, scripts: ModuleType) -> None:
    with_system = scripts.shapes.row_of({"instruction": "Say it.", "output": "yes", "system": "Be brief."}, 7)
    for template, said in (
        ("", "Warning: the checkpoint has no chat template; using that of Qwen's first releases, without reasoning"),
        (OPENS, "Warning: the chat template leaves <think> open before an answer"),
        ("{{ messages[-1].content }}", "Warning: the chat template omits some text of 1 rows: 7"),
        (None, ""),
    ):
        opened, report = chat(template), scripts.prepare_data.Report(512)
        assert list(scripts.prepare_data.usable([with_system], opened, "answers", report))
        told = list(report.warnings(opened))
        assert len(told) == bool(said)
        assert all(line.startswith(said) for line in told)
    with pytest.raises(scripts.problems.UserError, match=r"^row 7: the chat template of .* rejects it: no system"):
        scripts.encode.encode(with_system, chat("{{ raise_exception('no system') }}"))


def test_rows_that_cannot_be_used_are_counted_and_named(chat: OpenChat, scripts: ModuleType) -> None:
    row_of = scripts.shapes.row_of
    asked, answered = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    rows = [
        row(scripts, "yes", number=1),
        row(scripts, " \n", number=2),
        row(scripts, "y", "x " * 9000, number=3),
        row(scripts, "done<|im_end|>", number=4),
        row(scripts, "z " * 9000, number=5),
        row_of({"instruction": "a", "output": "b", "system": "<|im_start|>"}, 6),
        row_of({"instruction": "a", "output": "b", "history": [["c", "d<|endoftext|>"]]}, 7),
        row(scripts, "yes", number=8),
        row_of({"messages": [asked]}, 9),
        row_of({"messages": [asked, answered, asked, {**answered, "content": ""}]}, 10),
        row_of({"messages": [asked, answered, asked, answered]}, 11),
        row_of({"text": "\n"}, 12),
    ]
    report = scripts.prepare_data.Report(512)
    kept = list(scripts.prepare_data.usable(rows, chat(), "answers", report))
    assert [[one.row.number for one in encoded] for encoded in kept] == [[1], [5], [8], [10], [11, 11]]
    assert len(kept[1][0].ids) == 512
    assert report.tokens == sum(len(one.ids) for encoded in kept for one in encoded)
    assert list(report.lines()) == [
        "Dataset size: 12 examples",
        "Dropped 3 rows with an empty answer: 2, 9, 12",
        "Dropped 1 rows whose answer lies beyond 512 tokens: 3",
        "Dropped 3 rows that hold a chat token: 4, 6, 7",
        "Cut 1 rows to 512 tokens: 5",
        "Split 1 rows whose earlier turns the chat template renders anew: 11",
        "Kept 1 rows that repeat an earlier one: 8",
    ]


def test_the_last_answer_may_lie_beyond_the_longest_row(chat: OpenChat, scripts: ModuleType) -> None:
    """Whatever is trained on: a row is of no use without a token of an answer, and asks what its last answer answers."""
    turns = [{"role": role, "content": text} for text in ("a", "b " * 300) for role in ("user", "assistant")]
    for train_on, answers in (("answers", ["a"]), ("last", []), ("all", [])):
        report = scripts.prepare_data.Report(200)
        rows = [scripts.shapes.row_of({"messages": turns}, 4)]
        kept = list(scripts.prepare_data.usable(rows, chat(None, "qwen2"), train_on, report))
        assert [one.questions[-1].answer for encoded in kept for one in encoded] == answers
        assert (report.cut.named, report.beyond.named) == ((": 4", "") if answers else ("", ": 4"))


def prepare(scripts: ModuleType, monkeypatch: pytest.MonkeyPatch, made: Path, data: Path, *options: str) -> Path:
    """Run prepare_data.py in this process; returns the folder of its outputs."""
    paths = ["--data", str(data), "--model", str(made / "qwen3"), "--runs", str(data.parent / "runs")]
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *paths, *options])
    scripts.prepare_data.main()
    return data.parent / "runs" / f"qwen3-{data.stem}-prepared"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n{"text": 5}\n', "data.jsonl: row 2: no text 'text' (it is 5)"),
        ('{"text": "a"}\n' * 50, "data.jsonl: 50 usable rows are too few to hold out 50"),
        ('{"text": ""}\n', "data.jsonl: 0 usable rows are too few to hold out 50"),
    ],
)
def test_bad_data_is_refused_and_nothing_is_written(
    content: str, said: str, made: Path, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.jsonl").write_text(content)
    with pytest.raises(scripts.problems.UserError) as caught:
        prepare(scripts, monkeypatch, made, tmp_path / "data.jsonl")
    assert said in str(caught.value)
    assert list((tmp_path / "runs").iterdir()) == []


def test_rows_of_any_shape_are_written_and_the_last_are_held_out(
    made: Path, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [{"role": role, "content": text} for text in ("Add 1.", "And 2?") for role in ("user", "assistant")]
    rows = [{"text": f"text {i}"} for i in range(6)] + [{"prompt": "Q", "completion": "A"}, {"messages": asked}]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    folder = prepare(scripts, monkeypatch, made, tmp_path / "data.json", "--rows", "all", "--held-out", "3")
    train, held_out = (scripts.prepared.Rows.open(folder / name, 1024) for name in ("train", "held_out"))
    assert (len(train), len(held_out)) == (5, 4)  # the conversation is split in two
    tokenizer = scripts.chat.load_tokenizer(made / "qwen3")
    texts = [tokenizer.decode(train.start_of(row, 99)[: train.lengths[row]], False) for row in range(5)]
    assert texts == [f"text {i}<|im_end|>" for i in range(5)]
    assert np.array_equal(train.ids, train.labels)
    questions = scripts.prepared.read_questions(folder / "held_out", held_out)
    assert [(q.number, q.question, q.answer) for q in questions] == [
        (6, "", ""),
        (7, "Q", "A"),
        (8, "Add 1.", "Add 1."),
        (8, "And 2?", "And 2?"),
    ]


def test_a_preview_marks_the_trained_tokens_and_writes_nothing(
    made: Path, tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.json").write_text('[{"instruction": "[red]a", "output": "b"}, {"text": "t"}, {"text": "u"}]')
    prepare(scripts, monkeypatch, made, tmp_path / "data.json", "--preview", "2")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Row 1: 24 tokens, 2 of them targets",
        "<|im_start|>user",
        "[red]a<|im_end|>",
        "<|im_start|>assistant",
        "<think>",
        "",
        "</think>",
        "",
        "⟦b<|im_end|>⟧",
        "Row 2: 2 tokens, 1 of them targets",
        "⟦t<|im_end|>⟧",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_rows_that_were_prepared_before_are_reused_as_long_as_nothing_has_changed(
    made: Path,
    tmp_path: Path,
    scripts: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = shutil.copy(made / "data.json", tmp_path / "data.json")
    model = shutil.copytree(made / "qwen3", tmp_path / "model")
    out = tmp_path / "prepared"

    def prepared(rows: int) -> tuple[bool, list[str]]:
        """Whether it was reused, and the other lines."""
        paths = ["--model", str(model), "--data", str(data), "--prepared", str(out)]
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", *paths, "--rows", str(rows)])
        assert scripts.prepare_data.main() == 0
        *lines, last = capsys.readouterr().out.splitlines()
        is_reused = last.startswith("Reused ")
        return is_reused, lines if is_reused else [*lines, last]

    first, again = prepared(100), prepared(100)
    assert not first[0]
    assert again == (True, first[1])
    with (out / "train" / "ids.npy").open("r+b") as file:
        file.truncate(1000)
    assert not prepared(100)[0]
    assert prepared(100)[0]
    assert not prepared(90)[0]
    data.write_text(data.read_text() + " ")
    assert not prepared(90)[0]
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    assert not prepared(90)[0]
