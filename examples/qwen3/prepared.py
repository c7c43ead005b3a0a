"""Prepared rows on disk: ids.npy and labels.npy (int32, all rows concatenated; label -100: no target), offsets.npy (int64,
the start of each row, and the end), and for held-out rows questions.json. Training memory-maps them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from chat import checksum
from problems import UserError, read_json
from tokenizers import Tokenizer

IGNORED = -100
"""A label or target that is none, as PyTorch's cross_entropy has it."""
PAD_TO = 16
"""Batches are padded to a multiple of this many tokens, to limit the number of shapes."""
AGAIN = "prepare the data again"
CHECKED_AT_ONCE = 4096
"""Rows whose tokens are in memory together while they are checked."""
DTYPES = {"ids": np.int32, "labels": np.int32, "offsets": np.int64}


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, int64 [rows, tokens], right-padded."""

    ids: np.ndarray
    targets: np.ndarray
    """The next token where it is a target, else IGNORED."""
    positions: np.ndarray | None = None
    """For packed rows: the position in its document; None: the position in the row."""
    documents: np.ndarray | None = None
    """For packed rows: the document's number in its row; padding has its own. None: a row is one document."""

    @property
    def count(self) -> int:
        """The number of targets."""
        return int((self.targets != IGNORED).sum())


def padded(tokens: int) -> int:
    """Width of a batch whose longest row has so many tokens."""
    return math.ceil(tokens / PAD_TO) * PAD_TO


class Writer:
    """Writes rows one by one: none is held in memory. A context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.closing = ExitStack()
        self.arrays = {name: _GrowingArray(folder / f"{name}.npy", dtype) for name, dtype in DTYPES.items()}
        for array in self.arrays.values():
            self.closing.callback(array.close)
        self.tokens = 0
        self.arrays["offsets"].add([0])

    def add(self, ids: Sequence[int], labels: Sequence[int]) -> None:
        self.arrays["ids"].add(ids)
        self.arrays["labels"].add(labels)
        self.tokens += len(ids)
        self.arrays["offsets"].add([self.tokens])

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.close()


class _GrowingArray:
    """A .npy file of one dimension. NumPy pads its header so that it can be rewritten with the final length."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self.file, self.dtype, self.length = path.open("wb"), np.dtype(dtype), 0
        self._header()

    def add(self, values: Sequence[int]) -> None:
        self.file.write(np.asarray(values, self.dtype).tobytes())
        self.length += len(values)

    def close(self) -> None:
        with self.file:
            self.file.seek(0)
            self._header()

    def _header(self) -> None:
        about = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.file, about)


@dataclass(frozen=True)
class Rows:
    """Prepared rows, memory-mapped. Row i is ids[offsets[i]:offsets[i + 1]]."""

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray

    @classmethod
    def open(cls, folder: Path, vocabulary: int) -> Rows:
        """Raises UserError or FileNotFoundError."""
        rows = cls(**{name: _load(folder / f"{name}.npy", dtype) for name, dtype in DTYPES.items()})
        rows._check(folder, vocabulary)
        return rows

    def _check(self, folder: Path, vocabulary: int) -> None:
        if len(self.offsets) < 2:
            raise UserError(f"{folder}: no rows; {AGAIN}")
        if self.offsets[0] != 0 or not (self.lengths > 0).all():
            raise UserError(f"{folder / 'offsets.npy'}: does not rise from 0; {AGAIN}")
        if not len(self.ids) == len(self.labels) == self.offsets[-1]:
            raise UserError(f"{folder}: ids, labels and offsets do not match; {AGAIN}")
        for first in range(0, len(self), CHECKED_AT_ONCE):
            self._check_tokens(folder, vocabulary, self.offsets[first : first + CHECKED_AT_ONCE + 1])

    def _check_tokens(self, folder: Path, vocabulary: int, offsets: np.ndarray) -> None:
        ids, labels = (array[offsets[0] : offsets[-1]] for array in (self.ids, self.labels))
        learnt = labels != IGNORED
        for name, found in (("token", ids), ("label", labels[learnt])):
            wrong = found[(found < 0) | (found >= vocabulary)]
            if len(wrong):
                raise UserError(f"{folder}: prepared for another model: {name} {wrong[0]} of a vocabulary of {vocabulary}")
        starts = offsets[:-1] - offsets[0]
        learnt[starts] = False  # nothing predicts the first token
        targets = np.add.reduceat(learnt, starts, dtype=np.int64)
        if not targets.all():
            raise UserError(f"{folder}: a row of {np.diff(offsets)[targets.argmin()]} tokens has no target; {AGAIN}")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.diff(self.offsets)

    def check_longest(self, tokens: int) -> None:
        """Raises UserError if a row is longer than so many tokens."""
        if self.lengths.max() > tokens:
            raise UserError(f"--max-tokens {tokens}: a prepared row has {self.lengths.max()} tokens; {AGAIN}")

    def checksum(self) -> str:
        """Changes with any token, label or length."""
        digest = hashlib.sha256()
        for array in (self.ids, self.labels, self.offsets):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()[:16]

    def tokens(self, chosen: np.ndarray) -> int:
        """Number of tokens in rows, without padding."""
        return int(self.lengths[chosen].sum())

    def start_of(self, row: int, tokens: int) -> list[int]:
        """The first tokens of a row."""
        return self.ids[self.offsets[row] :][:tokens].tolist()

    def batch(self, chosen: np.ndarray, pad: int) -> Batch:
        """Rows as a batch; `pad`: the id of the padding."""
        return self.fill([[i] for i in chosen], pad)

    def fill(self, bins: Sequence[Sequence[int]], pad: int) -> Batch:
        """A batch whose every row is several rows, one after the other, without positions and documents."""
        width = padded(max(int(self.lengths[list(rows)].sum()) for rows in bins))
        ids = np.full((len(bins), width), pad, np.int64)
        targets = np.full((len(bins), width), IGNORED, np.int64)
        for line, rows in enumerate(bins):
            end = 0
            for i in rows:
                first, last = int(self.offsets[i]), int(self.offsets[i + 1])
                start, end = end, end + last - first
                ids[line, start:end] = self.ids[first:last]
                targets[line, start : end - 1] = self.labels[first + 1 : last]
        return Batch(ids, targets)


def _load(path: Path, dtype: type[np.generic]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r")
    except OSError:
        raise
    except Exception as error:  # a damaged header can raise anything that Python's parser does
        raise UserError(f"{path}: {' '.join(str(error).split())}; {AGAIN}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != dtype:
        raise UserError(f"{path}: not an array of {np.dtype(dtype)} with one dimension; {AGAIN}")
    return array


@dataclass(frozen=True)
class Question:
    """What is asked in a held-out row and what is expected, for people to read and to compare answers with."""

    number: int
    question: str
    answer: str
    prompt_tokens: int
    """The answer begins after so many tokens; 0: the row asks nothing."""


def write_questions(folder: Path, questions: Sequence[Question]) -> None:
    text = json.dumps([asdict(question) for question in questions], indent=1)
    (folder / "questions.json").write_text(text + "\n", encoding="utf-8")


def read_questions(folder: Path, rows: Rows) -> list[Question]:
    """One for each row. Raises UserError or FileNotFoundError."""
    path = folder / "questions.json"
    kinds = {field.name: str if field.name in ("question", "answer") else int for field in fields(Question)}
    try:
        found = [{name: entry[name] for name in kinds} for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: not a list of questions; {AGAIN}") from None
    questions = [Question(**entry) for entry in found]
    typed = all(type(entry[name]) is kind for entry in found for name, kind in kinds.items())
    if not typed or len(questions) != len(rows):
        raise UserError(f"{path}: does not match the rows; {AGAIN}")
    if any(not 0 <= q.prompt_tokens < length for q, length in zip(questions, rows.lengths, strict=True)):
        raise UserError(f"{path}: an answer that begins beyond its row; {AGAIN}")
    return questions


def end_of_answers(prepared: Path, model: Path, tokenizer: Tokenizer) -> int:
    """The token that ends an answer. Raises UserError if the rows were prepared with another tokenizer than the model's."""
    about = read_json(prepared / "chat.json")
    if about.get("tokenizer") != checksum(model):
        raise UserError(f"{prepared}: prepared for another model: its tokenizer is not that of {model}")
    end = tokenizer.token_to_id(str(about.get("end")))
    if end is None:
        raise UserError(f"{prepared / 'chat.json'}: names no token that ends an answer; {AGAIN}")
    return int(end)
