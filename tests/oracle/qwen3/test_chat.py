"""Conversations by the checkpoint's own chat template: prompts, answers, and which tokens the loss covers."""

from __future__ import annotations

from itertools import groupby
from types import ModuleType

import pytest
from transformers import AutoTokenizer

from tests.oracle.qwen3.conftest import Broken, OpenChat, row

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


def rendered(chat: object, messages: list[dict[str, str]], **options: object) -> str:
    tokenizer = AutoTokenizer.from_pretrained(chat.folder)
    return tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **options)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_what_the_chat_template_renders(name: str, chat: OpenChat, scripts: ModuleType) -> None:
    template, expected = TEMPLATES[name]
    opened = chat(template, "qwen2" if name == "qwen2" else "qwen3")
    assert opened.prompt(row(scripts, "").messages[:-1]) == expected
    fields = {"instruction": "Sort.", "input": "3 1", "output": "1 3", "system": "Be brief."}
    whole = scripts.shapes.row_of({**fields, "history": [["Hello?", "Hi!"], ["And?", "Yes."]]})
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Sort.\n\n3 1"},
    ]
    assert opened.prompt(whole.messages[:-1]) == rendered(opened, messages, add_generation_prompt=True)
    (encoded,) = scripts.encode.encode(whole, opened)
    if name not in ("thinking-2507", "a person's own"):
        text = rendered(opened, [*messages, {"role": "assistant", "content": "1 3"}])
        assert opened.tokenizer.decode(encoded.ids, skip_special_tokens=False) + "\n" == text


def test_the_loss_covers_the_answer_and_one_end(chat: OpenChat, scripts: ModuleType) -> None:
    for template, end in ((None, "<|im_end|>"), (OWN, "\n<|endoftext|>"), ("{{ messages[-1].content }}", "<|im_end|>")):
        opened = chat(template)
        assert opened.end == end
        for output in ("12", "\n\nyes", " a-b ", "naïve ✓"):
            (encoded,) = scripts.encode.encode(row(scripts, output), opened)
            answer = [label for label in encoded.labels if label != -100]
            prompt = opened.tokenizer.encode(encoded.turns[0].context).ids
            assert encoded.ids == prompt + answer
            assert opened.tokenizer.decode(answer, skip_special_tokens=False) == output + end
            assert answer.count(opened.tokenizer.token_to_id(opened.end_token)) == 1


def test_a_template_is_found_where_transformers_finds_it(chat: OpenChat, scripts: ModuleType) -> None:
    turns = row(scripts, "").messages[:-1]
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]
    assert chat(named).prompt(turns) == "named"
    assert chat("in the config", chat_template="in a file").prompt(turns) == "in a file"
    assert chat("in the config", chat_template="in a file", chat_templates__rag="for documents").prompt(turns) == "in a file"
    without = chat("")
    assert (without.built_in, without.prompt(turns)) == (scripts.chat.BUILT_IN["qwen3"], TEMPLATES["qwen3"][1])
    for template, said in (([{"name": "rag", "template": "x"}], "rag"), ("{% if %}", "Expected an expression")):
        with pytest.raises(scripts.problems.UserError, match=said):
            chat(template).prompt(turns)


STOCK = """{% set last = namespace(question=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set last.question = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}<|im_start|>{{ m.role + '\\n' }}
{%- set thought = m.reasoning_content or '' %}{% set said = m.content %}
{%- if '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set said = said.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if m.role == 'assistant' and loop.index0 > last.question and (loop.last or thought) %}
{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}{{ said + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""
"""Does with reasoning what Qwen3's stock template does: only the turns after the last question keep theirs."""
MARKED = TURNS.replace(
    "{{ m.content }}<|im_end|>",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}",
)
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Add 2 and 3."},
    {"role": "assistant", "content": "5"},
    {"role": "user", "content": "And 4?"},
    {"role": "assistant", "content": "9, of course"},
    {"role": "user", "content": "Spell map."},
    {"role": "assistant", "content": "m-a-p"},
]


def learnt(opened: object, encoded: object) -> list[tuple[str, str]]:
    """Each answer that is learnt, with all the text before it."""
    found, before = [], []
    for target, tokens in groupby(zip(encoded.ids, encoded.labels, strict=True), lambda token: token[1] != -100):
        ids = [token for token, _ in tokens]
        if target:
            texts = (opened.tokenizer.decode(part, skip_special_tokens=False) for part in (before, ids))
            found.append(tuple(texts))
        before = before + ids
    return found


@pytest.mark.parametrize(
    ("template", "kind", "sequences"),
    [
        (None, "qwen3", 3),
        (None, "qwen2", 1),
        (STOCK, "qwen3", 3),
        (TURNS, "qwen3", 1),
        (MARKED, "qwen3", 1),
        (OWN, "qwen3", 3),
    ],
)
def test_every_answer_is_learnt_after_the_prompt_that_the_template_renders(
    template: str | None, kind: str, sequences: int, chat: OpenChat, scripts: ModuleType
) -> None:
    """In one sequence if earlier turns stay as they were, else in one for each answer."""
    opened = chat(template, kind)
    encoded = scripts.encode.encode(scripts.shapes.row_of({"messages": CONVERSATION}), opened)
    assert len(encoded) == sequences
    places = [index for index, message in enumerate(CONVERSATION) if message["role"] == "assistant"]
    assert [pair for one in encoded for pair in learnt(opened, one)] == [
        (rendered(opened, CONVERSATION[:place], add_generation_prompt=True), CONVERSATION[place]["content"] + opened.end)
        for place in places
    ]
    (last,) = scripts.encode.encode(scripts.shapes.row_of({"messages": CONVERSATION}), opened, "last")
    assert learnt(opened, last) == learnt(opened, encoded[-1])[-1:]
    (whole,) = scripts.encode.encode(scripts.shapes.row_of({"messages": CONVERSATION}), opened, "all")
    assert whole.labels == whole.ids
    assert opened.tokenizer.decode(whole.ids, skip_special_tokens=False) == last.text


def test_generation_marks_give_the_same_targets(chat: OpenChat, scripts: ModuleType) -> None:
    opened = chat(MARKED)
    (encoded,) = scripts.encode.encode(scripts.shapes.row_of({"messages": CONVERSATION}), opened)
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    expected = AutoTokenizer.from_pretrained(opened.folder).apply_chat_template(CONVERSATION, **options)
    length = len(encoded.ids)  # without the line break after the last turn
    assert encoded.ids == expected["input_ids"][:length]
    assert [label != -100 for label in encoded.labels] == [bool(mask) for mask in expected["assistant_masks"][:length]]
    assert sum(expected["assistant_masks"][length:]) == 0


def test_reasoning_is_learnt_once_and_is_no_context_of_later_turns(chat: OpenChat, scripts: ModuleType) -> None:
    opened = chat(STOCK)
    thought = {"role": "assistant", "content": "5", "reasoning_content": "2 + 3"}
    said = {"role": "assistant", "content": "<think>\n5 + 4\n</think>\n\n9"}
    messages = [CONVERSATION[1], thought, CONVERSATION[3], said]
    first, second = scripts.encode.encode(scripts.shapes.row_of({"messages": messages}), opened)
    assert [pair for one in (first, second) for pair in learnt(opened, one)] == [
        ("<|im_start|>user\nAdd 2 and 3.<|im_end|>\n<|im_start|>assistant\n", "<think>\n2 + 3\n</think>\n\n5<|im_end|>"),
        (
            "<|im_start|>user\nAdd 2 and 3.<|im_end|>\n<|im_start|>assistant\n5<|im_end|>\n"
            "<|im_start|>user\nAnd 4?<|im_end|>\n<|im_start|>assistant\n",
            "<think>\n5 + 4\n</think>\n\n9<|im_end|>",
        ),
    ]
    for template in (None, MARKED.replace("{{ m.content }}<|im_end|>", "{{ m.content[:3] }}<|im_end|>")):
        with pytest.raises(scripts.problems.UserError, match=r"^row 8: .* does not render an answer's reasoning"):
            scripts.encode.encode(scripts.shapes.row_of({"messages": messages[:2]}, 8), chat(template))


def test_a_text_is_learnt_whole_and_ends_once(chat: OpenChat, scripts: ModuleType) -> None:
    opened = chat()
    for text, whole in (
        ("a b", "a b<|im_end|>"),
        (" a\n", " a\n<|im_end|>"),
        ("<|im_start|>user\nhi<|im_end|>\n", "<|im_start|>user\nhi<|im_end|>"),
    ):
        (plain,) = scripts.encode.encode(scripts.shapes.row_of({"text": text}), opened)
        assert plain.labels == plain.ids
        assert opened.tokenizer.decode(plain.ids, skip_special_tokens=False) == whole
        (asked,) = scripts.encode.encode(scripts.shapes.row_of({"prompt": "Q: ", "completion": text}), opened)
        assert learnt(opened, asked) == [("Q: ", whole)]


def test_what_is_asked_is_known_for_each_answer(chat: OpenChat, scripts: ModuleType) -> None:
    (encoded,) = scripts.encode.encode(scripts.shapes.row_of({"messages": CONVERSATION}, 5), chat(TURNS))
    found = [(q.number, q.question, q.answer) for q in encoded.questions]
    assert found == [(5, "Add 2 and 3.", "5"), (5, "And 4?", "9, of course"), (5, "Spell map.", "m-a-p")]
    for question, turn in zip(encoded.questions, encoded.turns, strict=True):
        assert encoded.labels[question.prompt_tokens - 1] == -100 != encoded.labels[question.prompt_tokens]
        assert turn.question == question.question
    second = encoded.questions[1].prompt_tokens
    assert [len(encoded.cut(tokens).questions) for tokens in (second, second + 1)] == [1, 2]
    (text,) = scripts.encode.encode(scripts.shapes.row_of({"text": "a b"}), chat(TURNS))
    assert text.questions[0].prompt_tokens == 0


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
