"""Renders conversations by a checkpoint's own chat template, as `transformers` does."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from problems import UserError
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
Message = dict[str, str]
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

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text up to the answer. Raises UserError if the template rejects the conversation."""
        return self._render(messages, add_generation_prompt=True)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return self.renderer.apply_chat_template(
                list(messages),
                chat_template=self.built_in,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=False,
            )
        except Exception as error:  # a template may raise anything
            raise UserError(f"the chat template of {self.folder} rejects it: {' '.join(str(error).split())}") from None

    def _end(self) -> tuple[str, str]:
        asked, answer = "Which one?", "the-answer"
        try:
            text = self._render([_said("user", asked), _said("assistant", answer)], add_generation_prompt=False)
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


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def conversation(system: str, history: Sequence[Sequence[str]], asked: str) -> list[Message]:
    """The turns before an answer. `history`: earlier pairs of question and answer."""
    turns = [_said("system", system)] if system else []
    for question, answer in history:
        turns += [_said("user", question), _said("assistant", answer)]
    return [*turns, _said("user", asked)]


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
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()


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
