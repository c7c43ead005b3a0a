"""Rows and prompts: what is kept, cut, dropped and refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoTokenizer

from tests.oracle.qwen3.conftest import Broken, row


def test_the_prompt_is_what_the_chat_template_renders(made: Path, scripts: ModuleType) -> None:
    """The tiny twins' chat templates say what Qwen's say about one question and its answer."""
    for kind in ("qwen3", "qwen2"):
        tokenizer = AutoTokenizer.from_pretrained(made / kind)
        asked = scripts.prepare_data.Row(1, "Sort.", "3 1", "1 3")
        messages = [{"role": "user", "content": "Sort.\n\n3 1"}]
        template = scripts.prepare_data.TEMPLATES[kind]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        assert template.prompt(asked) == tokenizer.apply_chat_template(messages, **options)
        ids, _ = scripts.prepare_data.encode(asked, scripts.prepare_data.load_tokenizer(made / kind), template)
        whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "1 3"}], tokenize=False)
        assert tokenizer.decode(ids) + "\n" == whole
    qwen3, qwen2 = scripts.prepare_data.TEMPLATES["qwen3"], scripts.prepare_data.TEMPLATES["qwen2"]
    assert qwen3.prompt(row(scripts, "")) == (
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert qwen2.prompt(row(scripts, "")) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_loss_covers_the_answer_and_one_end(made: Path, scripts: ModuleType) -> None:
    tokenizer = scripts.prepare_data.load_tokenizer(made / "qwen3")
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    template = scripts.prepare_data.TEMPLATES["qwen3"]
    for output in ("12", "\n\nyes", " a-b ", "naïve ✓"):
        ids, labels = scripts.prepare_data.encode(row(scripts, output), tokenizer, template)
        answer = [label for label in labels if label != -100]
        prompt = tokenizer.encode(template.prompt(row(scripts, ""))).ids
        assert ids == prompt + answer
        assert tokenizer.decode(answer, skip_special_tokens=False) == output + "<|im_end|>"
        assert answer.count(end) == 1
        assert pad not in ids


def test_rows_that_cannot_be_used_are_counted_and_named(
    made: Path, scripts: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = scripts.prepare_data.load_tokenizer(made / "qwen3")
    rows = [
        row(scripts, "yes", number=1),
        row(scripts, " \n", number=2),
        row(scripts, "y", "x " * 9000, number=3),
        row(scripts, "done<|im_end|>", number=4),
        row(scripts, "z " * 9000, number=5),
    ]
    kept = scripts.prepare_data.encode_all(rows, tokenizer, scripts.prepare_data.TEMPLATES["qwen3"], 512)
    assert [(e.row.number, len(e.ids)) for e in kept] == [(1, len(kept[0].ids)), (5, 512)]
    assert capsys.readouterr().out.splitlines() == [
        "Dropped 1 rows with an empty answer: 2",
        "Dropped 1 rows whose answer lies beyond 512 tokens: 3",
        "Dropped 1 rows that hold a chat token: 4",
        "Cut 1 rows to 512 tokens: 5",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '[{"instruction": "a", "output": "b"}, {"instruction": "c"}]', "row 2 has no text 'output'"),
        ("a.json", '[{"instruction": "a", "output": 5}]', "row 1 has no text 'output' (it is 5)"),
        ("a.json", '[{"instruction": "a", "input": null, "output": "b"}]', "row 1 has no text 'input'"),
        ("a.json", '[{"instruction": "a", "output": "b\\ud800"}]', "row 1: 'output' holds half a character"),
        ("a.json", "[1]", "row 1 is no object"),
        ("a.json", "{}", "expected a list of rows"),
        ("a.json", '[\n{"instruction": }]', "a.json:2: not JSON"),
        ("a.json", "[]", "0 usable rows are too few"),
        ("a.jsonl", '{"instruction": "a", "output": "b\u2028"}\n{oops', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n\n["x"]', "row 2 is no object"),
        ("a.parquet", "PAR1", "a.parquet"),
    ],
)
def test_bad_data_is_refused_by_file_and_row_and_nothing_is_written(
    name: str,
    content: str,
    said: str,
    made: Path,
    tmp_path: Path,
    scripts: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    options = ["--data", str(tmp_path / name), "--model", str(made / "qwen3"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *options])
    with pytest.raises(scripts.problems.UserError) as caught:
        scripts.prepare_data.main()
    assert name in str(caught.value)
    assert said in str(caught.value)
    assert list((tmp_path / "runs").iterdir()) == []


def test_folders_hold_one_json_file_or_parquet(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    rows = json.loads((made / "data.json").read_text())[:7]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = scripts.prepare_data.read_rows(str(tmp_path / "one"), None)
    assert [r.output for r in found] == [r["output"] for r in rows]
    (tmp_path / "one" / "b.json").write_text("[]")
    with pytest.raises(scripts.problems.UserError, match="this has 2"):
        scripts.prepare_data.read_rows(str(tmp_path / "one"), None)
    with pytest.raises(scripts.problems.UserError, match="no such file or folder"):
        scripts.prepare_data.read_rows(str(tmp_path / "none.json"), None)


def test_a_tokenizer_without_the_chat_tokens_is_refused(broken: Broken, scripts: ModuleType) -> None:
    path = broken() / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_end|>", "<|other|>"))
    with pytest.raises(scripts.problems.UserError, match=r"tokenizer\.json: no token '<\|im_end\|>'"):
        scripts.prepare_data.load_tokenizer(path.parent)
    path.write_text("{")
    with pytest.raises(scripts.problems.UserError, match=r"tokenizer\.json: not a tokenizer"):
        scripts.prepare_data.load_tokenizer(path.parent)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        scripts.prepare_data.load_tokenizer(path.parent)


def test_an_output_folder_is_replaced_whole_and_never_with_other_peoples_files(tmp_path: Path, scripts: ModuleType) -> None:
    out = tmp_path / "out"
    for text in ("first", "second"):
        with scripts.folders.whole(out, {"a"}) as folder:
            (folder / "a").write_text(text)
    with pytest.raises(scripts.problems.UserError, match="cannot be written"), scripts.folders.whole(out, {"a"}) as folder:
        (folder / "missing" / "a").write_text("third")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / "a").read_text() == "second"
    (out / "thesis.tex").touch()
    with pytest.raises(scripts.problems.UserError, match=r"holds thesis\.tex, which would be lost"):
        scripts.folders.check_output(out, {"a"})
