"""Rows and prompts: which are kept, cut, dropped and rejected."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoTokenizer

from tests.oracle.qwen3.conftest import Broken, row

TURNS = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SYSTEM = """{% if messages[0].role != 'system' %}<|im_start|>system
TEXT<|im_end|>
{% endif %}"""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
OWN = """{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}
{% if m.role == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"""
TEMPLATES = {  # templates of published checkpoints of the two families, and the prompt for one question
    "qwen3": (None, "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "qwen2": (
        None,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n",
    ),
    "instruct-2507": (TURNS, "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n"),
    "thinking-2507": (
        TURNS.replace("assistant\n", "assistant\n<think>\n"),
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n<think>\n",
    ),
    "coder": (
        SYSTEM.replace("TEXT", "You are a helpful assistant.") + TURNS,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n",
    ),
    "math": (
        SYSTEM.replace("TEXT", "Please reason step by step.") + TURNS,
        "<|im_start|>system\nPlease reason step by step.<|im_end|>\n"
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n",
    ),
    "a person's own": (OWN, "[user] Say it.\n"),
}


@pytest.fixture
def chat(broken: Broken, made: Path, scripts: ModuleType) -> Callable[..., object]:
    """Opens a checkpoint with another template in tokenizer_config.json (None: its own), or with other files."""

    def make(template: object = None, kind: str = "qwen3", **files: str) -> object:
        folder = broken()
        about = json.loads((made / kind / "tokenizer_config.json").read_text())
        if template == "":
            del about["chat_template"]
        elif template:
            about["chat_template"] = template
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
        for name, text in files.items():
            path = folder / f"{name.replace('__', '/')}.jinja"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return scripts.chat.Chat.open(folder, kind)

    return make


def rendered(chat: object, messages: list[dict[str, str]], **options: object) -> str:
    tokenizer = AutoTokenizer.from_pretrained(chat.folder)
    return tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **options)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_what_the_chat_template_renders(name: str, chat: Callable[..., object], scripts: ModuleType) -> None:
    template, expected = TEMPLATES[name]
    opened = chat(template, "qwen2" if name == "qwen2" else "qwen3")
    assert opened.prompt(row(scripts, "").turns) == expected
    whole = scripts.prepare_data.Row(1, "Sort.", "3 1", "1 3", "Be brief.", (("Hello?", "Hi!"), ("And?", "Yes.")))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Sort.\n\n3 1"},
    ]
    assert opened.prompt(whole.turns) == rendered(opened, messages, add_generation_prompt=True)
    encoded = scripts.prepare_data.encode(whole, opened)
    if name not in ("thinking-2507", "a person's own"):
        text = rendered(opened, [*messages, {"role": "assistant", "content": "1 3"}])
        assert opened.tokenizer.decode(encoded.ids, skip_special_tokens=False) + "\n" == text


def test_the_loss_covers_the_answer_and_one_end(chat: Callable[..., object], scripts: ModuleType) -> None:
    for template, end in ((None, "<|im_end|>"), (OWN, "\n<|endoftext|>"), ("{{ messages[-1].content }}", "<|im_end|>")):
        opened = chat(template)
        assert opened.end == end
        for output in ("12", "\n\nyes", " a-b ", "naïve ✓"):
            encoded = scripts.prepare_data.encode(row(scripts, output), opened)
            answer = [label for label in encoded.labels if label != -100]
            prompt = opened.tokenizer.encode(encoded.prompt).ids
            assert encoded.ids == prompt + answer
            assert opened.tokenizer.decode(answer, skip_special_tokens=False) == output + end
            assert answer.count(opened.tokenizer.token_to_id(opened.end_token)) == 1


def test_a_template_is_found_where_transformers_finds_it(chat: Callable[..., object], scripts: ModuleType) -> None:
    turns = row(scripts, "").turns
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]
    assert chat(named).prompt(turns) == "named"
    assert chat("in the config", chat_template="in a file").prompt(turns) == "in a file"
    assert chat("in the config", chat_template="in a file", chat_templates__rag="for documents").prompt(turns) == "in a file"
    without = chat("")
    assert (without.built_in, without.prompt(turns)) == (scripts.chat.BUILT_IN["qwen3"], TEMPLATES["qwen3"][1])
    for template, said in (([{"name": "rag", "template": "x"}], "rag"), ("{% if %}", "Expected an expression")):
        with pytest.raises(scripts.problems.UserError, match=said):
            chat(template).prompt(turns)


def test_what_a_template_does_with_rows_is_told_in_a_line(
    chat: Callable[..., object], scripts: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with_system = scripts.prepare_data.Row(7, "Say it.", "", "yes", system="Be brief.")
    for template, said in (
        ("", "Warning: the checkpoint has no chat template; using that of Qwen's first releases, without reasoning"),
        (TEMPLATES["thinking-2507"][0], "Warning: the chat template leaves <think> open before an answer"),
        ("{{ messages[-1].content }}", "Warning: the chat template omits some text of 1 rows: 7"),
        (None, ""),
    ):
        opened = chat(template)
        scripts.prepare_data.warn_of_the_template([scripts.prepare_data.encode(with_system, opened)], opened)
        told = capsys.readouterr().out
        assert told.startswith(said)
        assert told.count("\n") == bool(said)
    with pytest.raises(scripts.problems.UserError, match=r"^row 7: the chat template of .* rejects it: System role not"):
        scripts.prepare_data.encode(with_system, chat(NO_SYSTEM + TURNS))


def test_rows_that_cannot_be_used_are_counted_and_named(
    made: Path, scripts: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    Row = scripts.prepare_data.Row
    rows = [
        row(scripts, "yes", number=1),
        row(scripts, " \n", number=2),
        row(scripts, "y", "x " * 9000, number=3),
        row(scripts, "done<|im_end|>", number=4),
        row(scripts, "z " * 9000, number=5),
        Row(6, "a", "", "b", system="<|im_start|>"),
        Row(7, "a", "", "b", history=(("c", "d<|endoftext|>"),)),
    ]
    kept = scripts.prepare_data.encode_all(rows, scripts.chat.Chat.open(made / "qwen3", "qwen3"), 512)
    assert [(e.row.number, len(e.ids)) for e in kept] == [(1, len(kept[0].ids)), (5, 512)]
    assert capsys.readouterr().out.splitlines() == [
        "Dropped 1 rows with an empty answer: 2",
        "Dropped 1 rows whose answer lies beyond 512 tokens: 3",
        "Dropped 3 rows that hold a chat token: 4, 6, 7",
        "Cut 1 rows to 512 tokens: 5",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '[{"instruction": "a", "output": "b"}, {"instruction": "c"}]', "row 2 has no text 'output'"),
        ("a.json", '[{"instruction": "a", "output": 5}]', "row 1 has no text 'output' (it is 5)"),
        ("a.json", '[{"instruction": "a", "input": null, "output": "b"}]', "row 1 has no text 'input'"),
        ("a.json", '[{"instruction": "a", "output": "b\\ud800"}]', "row 1: 'output' has a lone surrogate"),
        ("a.json", '[{"instruction": "a", "output": "b", "system": 5}]', "row 1 has no text 'system' (it is 5)"),
        ("a.json", '[{"instruction": "a", "output": "b", "history": ["c"]}]', "row 1: 'history' is not a list of pairs"),
        ("a.json", '[{"instruction": "a", "output": "b", "history": [["c", 1]]}]', "row 1 has no text 'history'"),
        ("a.json", "[1]", "row 1 is not an object"),
        ("a.json", "{}", "expected a list of rows"),
        ("a.json", '[\n{"instruction": }]', "a.json:2: not JSON"),
        ("a.json", "[]", "0 usable rows are too few"),
        ("a.jsonl", '{"instruction": "a", "output": "b\u2028"}\n{oops', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n\n["x"]', "row 2 is not an object"),
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
    with pytest.raises(scripts.problems.UserError, match="file, not 2"):
        scripts.prepare_data.read_rows(str(tmp_path / "one"), None)
    with pytest.raises(scripts.problems.UserError, match="no such file or folder"):
        scripts.prepare_data.read_rows(str(tmp_path / "none.json"), None)


def test_a_tokenizer_without_the_chat_tokens_is_refused(broken: Broken, scripts: ModuleType) -> None:
    path = broken() / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_end|>", "<|other|>"))
    with pytest.raises(scripts.problems.UserError, match=r"tokenizer\.json: no token '<\|im_end\|>'"):
        scripts.chat.load_tokenizer(path.parent)
    path.write_text("{")
    with pytest.raises(scripts.problems.UserError, match=r"tokenizer\.json: not a tokenizer"):
        scripts.chat.load_tokenizer(path.parent)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        scripts.chat.load_tokenizer(path.parent)
