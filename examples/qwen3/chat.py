"""Renders conversations by a checkpoint's own chat template, as `transformers` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from folders import fingerprint
from problems import UserError
from shapes import Message, said
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
BUILT_IN = {
    "qwen3": """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and loop.last %}<think>

</think>

{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}""",
    "qwen2": """{% if messages[0].role != 'system' %}<|im_start|>system
You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""",
}
"""Equivalent to the first templates of Qwen3 and Qwen2.5 for conversations without tools and reasoning."""


class Turn(NamedTuple):
    """A text that is context, and the answer to it, with its end."""

    context: str
    answer: str
    question: str
    """What the last user says in the context, or the context if there is no template."""
    end: str
    """What ends the answer."""


@dataclass(frozen=True)
class Chat:
    """A checkpoint's tokenizer and chat template."""

    tokenizer: Tokenizer
    renderer: PreTrainedTokenizerFast
    folder: Path
    built_in: str | None
    """The template to use if the checkpoint has none."""
    end: str
    """The text after an answer, up to and including the first added token; the loss covers it."""
    end_token: str
    """That token, which ends a generated answer."""

    @classmethod
    def open(cls, folder: Path, kind: str) -> Chat:
        """`kind`: the model_type. Raises UserError, or FileNotFoundError if there is no tokenizer."""
        tokenizer = load_tokenizer(folder)
        renderer = _renderer(folder)
        built_in = None if renderer.chat_template else BUILT_IN[kind]
        chat = cls(tokenizer, renderer, folder, built_in, END, END)
        end, end_token = chat._end()
        return cls(tokenizer, renderer, folder, built_in, end, end_token)

    @property
    def text_end(self) -> str:
        """The token that ends a text without a template."""
        token = self.renderer.eos_token
        return token if token and self.tokenizer.token_to_id(token) is not None else self.end_token

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text up to the answer. Raises UserError if the template rejects the conversation."""
        return self._render(messages, add_generation_prompt=True)

    def sequences(self, messages: Sequence[Message], learnt: Sequence[int]) -> list[list[Turn]]:
        """The answers with the `learnt` indices, each after exactly the prompt that the model meets when it answers.

        One sequence, if every prompt begins with the one before it and its answer. A template that renders earlier turns
        otherwise (Qwen3's leaves their reasoning away) begins a new sequence there, which repeats them as context. So the
        targets are right for any template. Raises UserError if the template rejects the conversation.
        """
        found: list[list[Turn]] = []
        before = ""
        for index in learnt:
            prompt, answer = self._turn(messages[: index + 1])
            if not found or not prompt.startswith(before):
                found.append([])
                before = ""
            asked = [message["content"] for message in messages[:index] if message["role"] == "user"]
            found[-1].append(Turn(prompt.removeprefix(before), answer, asked[-1] if asked else "", self.end))
            before = prompt + answer
        return found

    def _turn(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The prompt and the answer, which is the last message, with its end."""
        answer = messages[-1]["content"]
        if "</think>" not in answer and "reasoning_content" not in messages[-1]:
            return self.prompt(messages[:-1]), answer + self.end
        prompt = self._render(messages[:-1], add_generation_prompt=True, enable_thinking=True)
        text = self._render(messages, add_generation_prompt=False, enable_thinking=True)
        said, end, _ = text.removeprefix(prompt).rpartition(self.end)
        parts = (messages[-1].get("reasoning_content", ""), *answer.replace("<think>", "").split("</think>"))
        whole = said.count("</think>") == 1 and all(part.strip() in said for part in parts)
        if not (text.startswith(prompt) and end and whole):
            raise UserError(f"the chat template of {self.folder} does not render an answer's reasoning after its prompt")
        return prompt, said + end

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool, enable_thinking: bool = False) -> str:
        try:
            return self.renderer.apply_chat_template(
                list(messages),
                chat_template=self.built_in,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=enable_thinking,
            )
        except Exception as error:  # a template may raise anything
            raise UserError(f"the chat template of {self.folder} rejects it: {' '.join(str(error).split())}") from None

    def _end(self) -> tuple[str, str]:
        asked, answer = "Which one?", "the-answer"
        try:
            text = self._render([said("user", asked), said("assistant", answer)], add_generation_prompt=False)
        except UserError:  # not every template accepts this conversation; errors in the rows are reported later
            text = ""
        after = text.rpartition(answer)[2] if answer in text else ""
        tokens = {token.content for token in self.tokenizer.get_added_tokens_decoder().values()}
        found = min(((after.index(token), token) for token in tokens if token in after), default=None)
        if found is None:
            token = self.renderer.eos_token or END
            return token, token
        place, token = found
        return after[:place] + token, token


def leaves_thinking_open(prompt: str) -> bool:
    return prompt.rfind("<think>") > prompt.rfind("</think>")


def load_tokenizer(folder: Path) -> Tokenizer:
    """A checkpoint's tokenizer. Raises UserError if it is not a Qwen tokenizer, FileNotFoundError if missing."""
    path = folder / "tokenizer.json"
    path.stat()
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise UserError(f"{path}: not a tokenizer: {error}") from None
    for token in (PAD, START, END):
        if tokenizer.token_to_id(token) is None:
            raise UserError(f"{path}: no token {token!r}: not a Qwen tokenizer")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def checksum(folder: Path) -> str:
    """SHA-256 of a checkpoint's tokenizer: rows prepared with one are of no use to another."""
    return fingerprint(folder / "tokenizer.json")


def _renderer(folder: Path) -> PreTrainedTokenizerFast:
    """Finds the chat template as `transformers` does: in its own file, in tokenizer_config.json, or by name."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import PreTrainedTokenizerFast  # late import: train.py does not need it

    try:
        renderer = PreTrainedTokenizerFast.from_pretrained(folder)
        if renderer.chat_template:
            renderer.get_chat_template()
    except Exception as error:  # the library may raise anything for a malformed file
        raise UserError(f"{folder}: its chat template cannot be read: {' '.join(str(error).split())}") from None
    return renderer
