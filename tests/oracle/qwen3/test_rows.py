"""Rows of every shape and file that people have: read as they are, or refused by file and row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

GOOD = [{"instruction": f"Add {i} and 2.", "input": "", "output": str(i + 2)} for i in range(8)]
DATES = [{"instruction": "When?", "input": None, "output": f"2024-01-0{day}"} for day in (1, 2)]


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def lines(rows: list[object], end: str = "\n") -> str:
    return "".join(json.dumps(row) + end for row in rows)


def parquet(rows: list[object], count: int | None = None) -> bytes:
    """The first `count` rows, or all."""
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows).slice(0, count), buffer)
    return buffer.getvalue().to_pybytes()


ASKED, ANSWERED = said("user", "a"), said("assistant", "b")


@pytest.mark.parametrize(
    ("found", "messages", "learnt"),
    [
        ({"instruction": "a", "output": "b"}, [ASKED, ANSWERED], [1]),
        ({"instruction": "a", "input": None, "output": "b", "text": "t"}, [ASKED, ANSWERED], [1]),
        ({"instruction": "a", "input": "c", "output": "b"}, [said("user", "a\n\nc"), ANSWERED], [1]),
        ({"input": "a", "output": "b", "messages": None, "text": None}, [ASKED, ANSWERED], [1]),
        ({"instruction": "a"}, [ASKED, said("assistant", "")], [1]),
        ({"instruction": "a", "output": None, "text": "t"}, [ASKED, said("assistant", "")], [1]),
        (
            {"instruction": "a", "output": "b", "system": "s", "history": [["c", "d"]]},
            [said("system", "s"), said("user", "c"), said("assistant", "d"), ASKED, ANSWERED],
            [4],
        ),
        (
            {"messages": [ASKED, ANSWERED, ASKED, ANSWERED, ASKED], "id": 3},
            [ASKED, ANSWERED, ASKED, ANSWERED, ASKED],
            [1, 3],
        ),
        ({"messages": [ASKED, {**ANSWERED, "weight": 0}, ASKED, ANSWERED]}, [ASKED, ANSWERED, ASKED, ANSWERED], [3]),
        ({"messages": [{**ASKED, "tool_calls": None}, {**ANSWERED, "content": None}]}, [ASKED, said("assistant", "")], [1]),
        ({"messages": [], "conversations": None}, [], []),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
            [said("system", "s"), ASKED, ANSWERED],
            [2],
        ),
        ({"prompt": [ASKED, ANSWERED, ASKED], "completion": [ANSWERED]}, [ASKED, ANSWERED, ASKED, ANSWERED], [3]),
        ({"prompt": [ASKED], "completion": None}, [ASKED], []),
    ],
)
def test_a_conversation_is_recognised_by_its_keys(
    found: dict[str, object], messages: list[dict[str, str]], learnt: list[int], scripts: ModuleType
) -> None:
    row = scripts.shapes.row_of(found, 7)
    assert (row.number, list(row.messages), list(row.learnt), row.text) == (7, messages, learnt, "")


def test_a_text_is_recognised_by_its_keys(scripts: ModuleType) -> None:
    for found, prompt, text in (
        ({"text": "a\r\nb", "label": 3}, "", "a\r\nb"),
        ({"text": None}, "", ""),
        ({"prompt": "a", "completion": "b", "messages": None}, "a", "b"),
        ({"prompt": "a", "completion": None}, "a", ""),
    ):
        row = scripts.shapes.row_of(found)
        assert (row.messages, row.prompt, row.text) == ((), prompt, text)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", '[{"instruction": "a", "output": 5}]', "a.json: row 1: no text 'output' (it is 5)"),
        ("a.json", '[{"text": {"nested": "b"}}]', "a.json: row 1: no text 'text' (it is {'nested': 'b'})"),
        ("a.json", '[{"text": "b\\ud800"}]', "a.json: row 1: 'text' has a lone surrogate"),
        ("a.json", '[{"instruction": "a", "output": "b", "system": 5}]', "a.json: row 1: no text 'system' (it is 5)"),
        ("a.json", '[{"instruction": "a", "output": "b", "history": ["c"]}]', "a.json: row 1: 'history' is not a list of"),
        ("a.json", '[{"instruction": "a", "output": "b", "history": [["c", 1]]}]', "a.json: row 1: no text 'history'"),
        (
            "a.json",
            '[{"text": "a"}, {"question": 1, "answer": 2}]',
            "a.json: row 2: unknown shape, its keys are 'question', ",
        ),
        (
            "a.json",
            '[{"instruction": "a", "response": "b"}]',
            "a.json: row 1: unknown shape, its keys are 'instruction', 'r",
        ),
        (
            "a.json",
            '[{"prompt": "a", "chosen": "b", "rejected": "c"}]',
            "a.json: row 1: unknown shape, its keys are 'prompt'",
        ),
        ("a.json", "{}", "a.json: row 1: unknown shape, its keys are none; expected messages, conversations, prompt/comp"),
        ("a.json", '{"a": [{"text": "a"}], "b": [{"text": "b"}]}', "a.json: row 1: unknown shape, its keys are 'a', 'b'"),
        ("a.json", '[{"messages": "a"}]', "a.json: row 1: 'messages' is not a list of messages (it is 'a')"),
        ("a.json", '[{"messages": [1]}]', "a.json: row 1: 'messages' is not a list of messages (it is [1])"),
        ("a.json", '[{"messages": [{"role": "cook", "content": ""}]}]', "a.json: row 1: message 1 of 'messages': its role"),
        (
            "a.json",
            '[{"messages": [{"role": ["user"], "content": ""}]}]',
            "message 1 of 'messages': no text 'role' (it is [",
        ),
        ("a.json", '[{"messages": [{"role": "user", "text": "a"}]}]', "message 1 of 'messages': no 'content', its keys are"),
        ("a.json", '[{"messages": [{"role": "user", "content": [{}]}]}]', "message 1 of 'messages': no text 'content' (it"),
        (
            "a.json",
            '[{"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}]',
            "a.json: row 1: message 1 of 'messages': tool calls are not supported",
        ),
        ("a.json", '[{"messages": [], "tools": [1]}]', "a.json: row 1: tools are not supported"),
        (
            "a.json",
            '[{"messages": [{"role": "system", "content": "a"}], "system": "b"}]',
            "a.json: row 1: a system message both in 'system' and in 'messages'",
        ),
        ("a.json", '[{"prompt": [], "completion": "a"}]', "a.json: row 1: no text 'prompt' (it is [])"),
        ("a.json", "[1]", "a.json: row 1: not an object"),
        ("a.json", "5", "a.json: row 1: not an object"),
        ("a.json", '[\n{"instruction": }]', "a.json:2: not JSON: Expecting value (column 17)"),
        ("a.json", DEEP, "a.json: not JSON that can be read"),
        ("a.json", f"[{'9' * 5000}]", "a.json: not JSON that can be read"),
        ("a.json", "", "a.json: no rows"),
        ("a.json", "[]", "a.json: no rows"),
        ("a.jsonl", "\ufeff\r\n \r\n", "a.jsonl: no rows"),
        ("a.jsonl", '{"text": "b\u2028"}\n{oops', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{oops\n{"text": "b"}', "a.jsonl:1: not JSON"),
        ("a.jsonl", '{"text": "b"}\n\n["x"]', "a.jsonl: row 2: not an object"),
        ("a.jsonl", '{"text": "b"}\n{"text": "\xe9"}'.encode("latin-1"), "a.jsonl: not UTF-8 text"),
        ("a.csv", "text\n", "a.csv: no rows"),
        ("a.csv", "", "a.csv: no rows"),
        ("a.csv", "first,second\n1,2\n", "a.csv: row 1: unknown shape, its keys are 'first', 'second'"),
        ("a.csv", "text,label\na,1\nb,2,3\n", "a.csv: row 2: more cells than the header has"),
        ("a.csv", 'text\na\n"b', "a.csv:3: not CSV"),
        ("a.csv", "text\n\xe9".encode("latin-1"), "a.csv: not UTF-8 text"),
        ("a.txt", "", "a.txt: no rows"),
        ("a.parquet", parquet([{"text": "a"}], 0), "a.parquet: no rows"),
        ("a.parquet", "PAR1", "a.parquet: Parquet file size is 4 bytes"),
        ("a.parquet", "", "a.parquet: "),
    ],
)
def test_what_is_no_data_is_refused_in_a_line(
    name: str, content: str | bytes, told: str, tmp_path: Path, scripts: ModuleType
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(scripts.problems.UserError) as caught:
        list(scripts.rows.read_rows(str(path), None))
    assert str(path) in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def read(scripts: ModuleType, path: Path) -> list[tuple[int, str, str]]:
    return [(row.number, *(m["content"] for m in row.messages)) for row in scripts.rows.read_rows(str(path), None)]


EXPECTED = [(number, row["instruction"], row["output"]) for number, row in enumerate(GOOD, 1)]
CELLS = "instruction,output\r\n" + "".join(f'"{row["instruction"]}",{row["output"]}\r\n' for row in GOOD)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.json", json.dumps(GOOD)),
        ("d.json", lines(GOOD)),
        ("d.jsonl", json.dumps(GOOD, indent=1)),
        ("d.JSONL", lines(GOOD)),
        ("d.jsonl", "\ufeff" + lines(GOOD, "\r\n\r\n")),
        ("d.json", "\ufeff" + json.dumps(GOOD, indent=1).replace("\n", "\r\n")),
        ("d.json", json.dumps({"data": GOOD})),
        ("d.json", json.dumps({"version": "1", "rows": GOOD}, indent=1)),
        ("d.json", json.dumps({"test": GOOD[:2], "train": GOOD})),
        ("d.csv", CELLS),
        ("d.CSV", "\ufeff" + CELLS),
        ("d.tsv", CELLS.replace(",", "\t")),
    ],
)
def test_the_content_decides_how_a_file_is_read(name: str, content: str, tmp_path: Path, scripts: ModuleType) -> None:
    path = tmp_path / "folder" / name
    path.parent.mkdir()
    path.write_bytes(content.encode())
    assert read(scripts, path) == EXPECTED
    assert read(scripts, path.parent) == EXPECTED


def test_cells_and_dates_are_texts(tmp_path: Path, scripts: ModuleType) -> None:
    cells = 'instruction,output\n"a, ""b""\nc",007\nd,None\ne,2024-01-01\nf\n'
    (tmp_path / "d.csv").write_text(cells)
    expected = [(1, 'a, "b"\nc', "007"), (2, "d", "None"), (3, "e", "2024-01-01"), (4, "f", "")]
    assert read(scripts, tmp_path / "d.csv") == expected
    (tmp_path / "d.json").write_text(lines(DATES))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(DATES), tmp_path / "d.parquet")
    for name in ("d.json", "d.parquet"):
        assert read(scripts, tmp_path / name) == [(1, "When?", "2024-01-01"), (2, "When?", "2024-01-02")]
    (tmp_path / "texts.json").write_text('["a", "b"]')  # as `datasets` reads it
    assert [row.text for row in scripts.rows.read_rows(str(tmp_path / "texts.json"), None)] == ["a", "b"]


@pytest.mark.parametrize(
    "files",
    [
        {"train.jsonl": lines(GOOD), "test.jsonl": lines(GOOD[:2])},
        {"a.jsonl": lines(GOOD[:3]), "b.json": json.dumps(GOOD[3:])},
        {"train/a.json": json.dumps(GOOD), "validation/a.json": json.dumps(GOOD[:1])},
        {
            "data/train-00000-of-00002.parquet": parquet(GOOD[:5]),
            "data/train-00001-of-00002.parquet": parquet(GOOD[5:]),
            "data/test-00000-of-00001.parquet": parquet(GOOD[:1]),
        },
        {
            "README.md": "---\nconfigs:\n- config_name: mine\n  data_files:\n  - split: train\n    path: mine.jsonl\n---\n",
            "mine.jsonl": lines(GOOD),
            "other.jsonl": lines(GOOD[:3]),
        },
        {"train.csv": CELLS.replace("\r", ""), "test.csv": "instruction,output\na,1\n"},
    ],
)
def test_a_folder_is_read_as_datasets_reads_it(files: dict[str, str | bytes], tmp_path: Path, scripts: ModuleType) -> None:
    for name, content in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    folder = tmp_path / "folder"
    reference = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert read(scripts, folder) == [
        (number, row["instruction"], str(row["output"])) for number, row in enumerate(reference, 1)
    ]


@pytest.mark.parametrize(
    ("name", "content"), [("[1] *.parquet", parquet([{"text": "a"}, {"text": "b"}])), ("a.txt", b"a\nb\n")]
)
def test_a_file_that_datasets_reads_may_be_alone_in_its_folder(
    name: str, content: bytes, tmp_path: Path, scripts: ModuleType
) -> None:
    (tmp_path / name).write_bytes(content)
    for place in (tmp_path / name, tmp_path):
        assert [row.text for row in scripts.rows.read_rows(str(place), None)] == ["a", "b"]


def test_columns_of_a_parquet_file_give_null_to_rows_without_them(tmp_path: Path, scripts: ModuleType) -> None:
    rows = [
        {"messages": [ASKED, {**ANSWERED, "weight": 0.0}, ASKED, ANSWERED], "text": None},
        {"messages": None, "text": "t"},
    ]
    (tmp_path / "a.PARQUET").write_bytes(parquet(rows))
    first, second = scripts.rows.read_rows(str(tmp_path / "a.PARQUET"), None)
    assert (first.messages, first.learnt) == ((ASKED, ANSWERED, ASKED, ANSWERED), (3,))
    assert (second.messages, second.text) == ((), "t")


def test_a_folder_without_rows_to_train_on_is_refused(tmp_path: Path, scripts: ModuleType) -> None:
    (tmp_path / "test.jsonl").write_text(lines(GOOD))
    (tmp_path / "README.md").touch()
    with pytest.raises(scripts.problems.UserError, match=f"^{tmp_path}: no split 'train', only 'test'$"):
        list(scripts.rows.read_rows(str(tmp_path), None))
    (tmp_path / "test.jsonl").unlink()
    (tmp_path / "empty").touch()
    with pytest.raises(scripts.problems.UserError, match=f"^{tmp_path}: "):
        list(scripts.rows.read_rows(str(tmp_path), None))
    with pytest.raises(scripts.problems.UserError, match="no such file or folder"):
        list(scripts.rows.read_rows(str(tmp_path / "none.json"), None))


def test_a_data_set_on_the_hub_is_read_at_the_revision_that_is_named(
    tmp_path: Path, scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the cache of `huggingface_hub`, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "datasets--someone--sums"
    (place / "refs").mkdir(parents=True)
    for revision, rows in (("main", GOOD), ("v1", GOOD[:2])):
        commit = f"{len(rows):040x}"
        (place / "snapshots" / commit / "data").mkdir(parents=True)
        (place / "snapshots" / commit / "data" / "train-00000-of-00001.parquet").write_bytes(parquet(rows))
        (place / "refs" / revision).write_text(commit)
    for revision, count in ((None, 8), ("main", 8), ("v1", 2), (f"{2:040x}", 2)):
        assert len(list(scripts.rows.read_rows("someone/sums", revision))) == count
    with pytest.raises(scripts.problems.UserError, match=r"^someone/sums: no such folder here, and it cannot be downloaded"):
        next(scripts.rows.read_rows("someone/sums", "v2"))


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", lines(GOOD) + "{oops"), ("a.csv", CELLS + "1,2,3\n")], ids=["jsonl", "csv"]
)
def test_rows_are_read_one_by_one(name: str, content: str, tmp_path: Path, scripts: ModuleType) -> None:
    (tmp_path / name).write_text(content)
    reading = scripts.rows.read_rows(str(tmp_path / name), None)
    assert [next(reading).number for _ in GOOD] == list(range(1, 9))
    with pytest.raises(scripts.problems.UserError):
        next(reading)


def test_rows_are_drawn_from_a_stream_with_equal_chances(scripts: ModuleType) -> None:
    drawn: Callable[..., list[int]] = scripts.rows.drawn
    assert drawn(iter(range(5)), 5, 0) == drawn(iter(range(5)), 9, 0) == [0, 1, 2, 3, 4]
    assert drawn(iter(range(1000)), 3, 7) == drawn(iter(range(1000)), 3, 7) != drawn(iter(range(1000)), 3, 8)
    found = [drawn(iter(range(10)), 3, seed) for seed in range(1000)]
    assert all(len(set(rows)) == 3 for rows in found)
    for place in range(3):  # held-out rows are the last of these
        assert all(70 < count < 130 for count in Counter(rows[place] for rows in found).values())
