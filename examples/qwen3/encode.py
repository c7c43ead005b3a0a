"""Turns a row into token ids and labels: which tokens the loss covers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from chat import Chat, Turn, leaves_thinking_open
from prepared import IGNORED, Question
from problems import UserError
from shapes import Message, Row


@dataclass(frozen=True)
class Encoded:
    """A row, or a part of a conversation, as ids and labels."""

    row: Row
    turns: list[Turn]
    questions: list[Question]
    """One for each turn."""
    ids: list[int]
    labels: list[int]

    @property
    def targets(self) -> int:
        return sum(label != IGNORED for label in self.labels[1:])  # nothing predicts the first token

    @property
    def as_reasoning(self) -> bool:
        """Whether an answer begins inside an open think block."""
        return any(leaves_thinking_open(turn.context) and "</think>" not in turn.answer for turn in self.turns)

    @property
    def text(self) -> str:
        return "".join(turn.context + turn.answer for turn in self.turns)

    def cut(self, tokens: int) -> Encoded:
        """Its first tokens, without the turns whose answer begins after these."""
        left = sum(question.prompt_tokens < tokens for question in self.questions)
        return replace(
            self,
            turns=self.turns[:left],
            questions=self.questions[:left],
            ids=self.ids[:tokens],
            labels=self.labels[:tokens],
        )


def encode(row: Row, chat: Chat, train_on: str = "answers") -> list[Encoded]:
    """What is learnt of a row; nothing if it has no answer. Raises UserError if the template rejects it.

    `train_on`: "answers", the "last" answer, or "all" tokens up to its end. There are several results if the chat template
    does not render earlier turns as they were (Chat.sequences).
    """
    if row.messages:
        learnt = [index for index in row.learnt if _says(row.messages[index])]
        try:
            sequences = chat.sequences(row.messages, learnt if train_on == "answers" else learnt[-1:])
        except UserError as error:
            raise UserError(f"row {row.number}: {error}") from None
    else:
        sequences = [[_text(row, chat)]] if row.text.strip() else []
    return [_tokenised(row, turns, chat, train_on == "all") for turns in sequences]


def _says(message: Message) -> bool:
    return any(text.strip() for key, text in message.items() if key != "role")


def _text(row: Row, chat: Chat) -> Turn:
    """A text ends with the token for that exactly once, whether or not it has one."""
    end, bare = chat.text_end, row.text.rstrip()
    return Turn(row.prompt, bare if bare.endswith(end) else row.text + end, row.prompt, end)


def _tokenised(row: Row, turns: list[Turn], chat: Chat, all_learnt: bool) -> Encoded:
    """Tokenise contexts and answers separately, so that no token spans both."""
    ids: list[int] = []
    labels: list[int] = []
    questions = []
    for turn in turns:
        context = chat.tokenizer.encode(turn.context, add_special_tokens=False).ids
        answer = chat.tokenizer.encode(turn.answer, add_special_tokens=False).ids
        expected = turn.answer.removesuffix(turn.end) if context else ""
        questions.append(Question(row.number, turn.question, expected, len(ids) + len(context)))
        ids += context + answer
        labels += (context if all_learnt else [IGNORED] * len(context)) + answer
    return Encoded(row, turns, questions, ids, labels)
