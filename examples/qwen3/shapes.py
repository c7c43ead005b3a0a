"""The shapes of rows that people fine-tune with, recognised by their keys (SHAPES)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from reprlib import repr as short

from problems import UserError

Message = dict[str, str]
Fields = Mapping[str, object]


@dataclass(frozen=True)
class Row:
    """A conversation or a text, and its number in the data set (from 1)."""

    number: int
    messages: tuple[Message, ...] = ()
    learnt: tuple[int, ...] = ()
    """The messages to learn, by index; the others are context."""
    prompt: str = ""
    text: str = ""
    """For a row without messages: the text to learn, after `prompt`."""

    @property
    def texts(self) -> list[str]:
        return [text for message in self.messages for key, text in message.items() if key != "role"]


ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""Roles in `messages` and in ShareGPT's `conversations`, and their names in chat templates."""


def _text(fields: Fields, key: str) -> str:
    """The text of a key; missing and null are empty."""
    text = fields.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError(f"no text {key!r} (it is {short(text)})")
    if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(f"{key!r} has a lone surrogate (half a character)")
    return text


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _system(fields: Fields) -> list[Message]:
    system = _text(fields, "system")
    return [said("system", system)] if system else []


def _instruction(number: int, fields: Fields) -> Row:
    """Alpaca's format, with the columns `system` and `history` (pairs of question and answer) of others."""
    messages = _system(fields)
    history = fields.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise UserError("'history' is not a list of pairs, each a question and its answer")
    for pair in history:
        question, answer = (_text({"history": text}, "history") for text in pair)
        messages += [said("user", question), said("assistant", answer)]
    asked = "\n\n".join(filter(None, (_text(fields, "instruction"), _text(fields, "input"))))
    messages += [said("user", asked), said("assistant", _text(fields, "output"))]
    return Row(number, tuple(messages), (len(messages) - 1,))


def _conversation(number: int, fields: Fields) -> Row:
    key = "messages" if "conversations" not in fields or fields.get("messages") is not None else "conversations"
    messages, learnt = _messages(fields, key)
    system = _system(fields)
    if system and messages and messages[0]["role"] == "system":
        raise UserError(f"a system message both in 'system' and in {key!r}")
    return Row(number, (*system, *messages), tuple(len(system) + index for index in learnt))


def _completion(number: int, fields: Fields) -> Row:
    if isinstance(fields["prompt"], list) and isinstance(fields["completion"], list | None):
        asked, _ = _messages(fields, "prompt")
        said, learnt = _messages(fields, "completion")
        return Row(number, (*asked, *said), tuple(len(asked) + index for index in learnt))
    return Row(number, prompt=_text(fields, "prompt"), text=_text(fields, "completion"))


def _plain(number: int, fields: Fields) -> Row:
    return Row(number, text=_text(fields, "text"))


def _messages(fields: Fields, key: str) -> tuple[list[Message], list[int]]:
    """The messages, and the indices of those to learn: the assistant's, except where `weight` is 0."""
    given = [] if fields[key] is None else fields[key]
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
        raise UserError(f"{key!r} is not a list of messages (it is {short(given)})")
    messages = []
    for number, message in enumerate(given, 1):
        try:
            messages.append(_message(message))
        except UserError as error:
            raise UserError(f"message {number} of {key!r}: {error}") from None
    return messages, [
        index for index, message in enumerate(messages) if message["role"] == "assistant" and given[index].get("weight") != 0
    ]


def _message(given: Fields) -> Message:
    role = _text(given, "role") or _text(given, "from")
    if role not in ROLES:
        raise UserError(f"its role is {role!r}, expected one of {', '.join(ROLES)}")
    if given.get("tool_calls"):
        raise UserError("tool calls are not supported")
    if not given.keys() & {"content", "value"}:
        raise UserError(f"no 'content', its keys are {', '.join(map(repr, given))}")
    message = said(ROLES[role], _text(given, "content") or _text(given, "value"))
    reasoning = _text(given, "reasoning_content")
    return message | {"reasoning_content": reasoning} if reasoning else message


SHAPES: dict[tuple[str, ...], Callable[[int, Fields], Row]] = {
    ("messages",): _conversation,
    ("conversations",): _conversation,
    ("prompt", "completion"): _completion,
    ("instruction", "output"): _instruction,
    ("input", "output"): _instruction,
    ("text",): _plain,
}
"""Which keys make a row which shape."""
UNANSWERED = {"instruction", "input", "system", "history"}
"""A row with an instruction and no other keys than these only lacks its output."""


def shape_of(fields: Fields) -> Callable[[int, Fields], Row] | None:
    """The first whose keys are all there, one of them with a value: files with columns give every key to every row."""
    fitting = [keys for keys in SHAPES if fields.keys() >= set(keys)]
    valued = [keys for keys in fitting if any(fields[key] is not None for key in keys)]
    if fitting:
        return SHAPES[(valued or fitting)[0]]
    return _instruction if "instruction" in fields and fields.keys() <= UNANSWERED else None


def row_of(found: object, number: int = 1) -> Row:
    """Row `number` of a data set. Raises UserError, without the place."""
    if not isinstance(found, dict):
        raise UserError("not an object")
    shape = shape_of(found)
    if not shape:
        keys = ", ".join(map(repr, found)) or "none"
        raise UserError(f"unknown shape, its keys are {keys}; expected {', '.join('/'.join(keys) for keys in SHAPES)}")
    if found.get("tools"):
        raise UserError("tools are not supported")
    return shape(number, found)
