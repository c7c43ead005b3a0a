"""How good a model is on the rows that were held out: loss, and answers that match to the character."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from chat import PAD, load_tokenizer
from loss import chunked_cross_entropy
from model import Qwen3
from prepared import Batch, Question, Rows, end_of_answers, padded, read_questions
from problems import UserError
from tokenizers import Tokenizer

LONGEST_ANSWER = 32
"""Maximum tokens of a generated answer."""
FEWEST_ROWS = 8
"""Rows are evaluated at least so many at a time."""


def loss_sum(model: Qwen3, batch: Batch, autocast: bool = False) -> torch.Tensor:
    """Sum of -log p(target) over the targets, float32. `autocast`: multiply matrices in bfloat16."""
    device = model.lm_head.weight.device
    packed = {"positions": batch.positions, "documents": batch.documents}
    where = {name: torch.from_numpy(array).to(device) for name, array in packed.items() if array is not None}
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        hidden = model(torch.from_numpy(batch.ids).to(device), **where, head=False)
        return chunked_cross_entropy(hidden, model.lm_head.weight, batch.targets)


@torch.no_grad()
def answers(model: Qwen3, prompts: list[list[int]], pad: int, end: int) -> list[list[int]]:
    """Greedy answers to a batch of prompts. Tokens right of a position are padding, and the causal mask hides them."""
    device = model.lm_head.weight.device
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), padded(longest + LONGEST_ANSWER)), pad, np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    x = torch.from_numpy(ids).to(device)
    rows = torch.arange(len(prompts), device=device)
    ends = torch.tensor([len(p) for p in prompts], device=device)
    complete = torch.tensor([prompt.count(end) + 1 for prompt in prompts], device=device)
    for step in range(LONGEST_ANSWER):
        last = model(x, head=False)[rows, ends - 1 + step]
        x[rows, ends + step] = model.lm_head(last).argmax(-1)
        if step % 8 == 7 and bool((x == end).sum(-1).ge(complete).all()):
            break
    made = x.cpu().numpy()
    return [_until(made[row, len(p) : len(p) + LONGEST_ANSWER].tolist(), end) for row, p in enumerate(prompts)]


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


@contextmanager
def _without_dropout(model: Qwen3) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


@dataclass(frozen=True)
class Report:
    """What was found. `made`: the answers, in the order of the questions."""

    loss: float
    exact: float
    made: list[str]

    def __str__(self) -> str:
        exact = f", exact match {self.exact:.0%} of {len(self.made)}" if self.made else ""
        return f"loss {self.loss:.4f}{exact}"


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows, the tokenizer that reads answers, and the token that ends them."""

    questions: list[Question]
    data: Rows
    tokenizer: Tokenizer
    end: int
    batch_size: int

    @classmethod
    def open(cls, prepared: Path, model: Path, vocabulary: int, batch_size: int = FEWEST_ROWS) -> HeldOut:
        """Raises UserError or FileNotFoundError."""
        tokenizer = load_tokenizer(model)
        end = end_of_answers(prepared, model, tokenizer)
        rows = Rows.open(prepared / "held_out", vocabulary)
        return cls(read_questions(prepared / "held_out", rows), rows, tokenizer, end, max(batch_size, FEWEST_ROWS))

    @property
    def pad(self) -> int:
        """The id of the padding."""
        return int(self.tokenizer.token_to_id(PAD))

    @property
    def asked(self) -> list[Question]:
        """Plain texts ask nothing."""
        return [question for question in self.questions if question.prompt_tokens]

    @torch.no_grad()
    def loss(self, model: Qwen3) -> float:
        """Mean loss per target over all rows. Raises UserError if it is not finite."""
        total, count = 0.0, 0
        with _without_dropout(model):
            for start in range(0, len(self.data), self.batch_size):
                batch = self.data.batch(np.arange(start, min(start + self.batch_size, len(self.data))), self.pad)
                total += float(loss_sum(model, batch).item())
                count += batch.count
        if not math.isfinite(total):
            raise UserError(f"the held-out loss is {total / count}: the weights give no finite logits")
        return total / count

    def report(self, model: Qwen3) -> Report:
        """The loss, and the answers to the questions."""
        loss = self.loss(model)
        pairs = enumerate(self.questions)
        prompts = [self.data.start_of(row, q.prompt_tokens) for row, q in pairs if q.prompt_tokens]
        made: list[str] = []
        with _without_dropout(model):
            for start in range(0, len(prompts), self.batch_size):
                found = answers(model, prompts[start : start + self.batch_size], self.pad, self.end)
                made += [self.tokenizer.decode(ids) for ids in found]
        matches = sum(a == q.answer for a, q in zip(made, self.asked, strict=True))
        return Report(loss, matches / max(1, len(made)), made)
