"""Step 2: turn Alpaca-format rows into token ids and labels that training maps into memory.

    python prepare_data.py --data FILE_OR_FOLDER_OR_NAME --model FOLDER_OR_NAME [--prepared FOLDER]

Writes `train/` and `held_out/`, each with ids.npy and labels.npy (int32, all rows end to end; -100 is no target),
offsets.npy (int64, where each row begins, and the end) and rows.json, the rows as text. All of it or nothing.
"""

from __future__ import annotations

from problems import UserError, read_json

# isort: split
import json
import random
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from folders import check_output, resolve, whole
from options import parse
from tokenizers import Tokenizer

IGNORED = -100
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
OUTPUTS = {"train", "held_out"}


@dataclass(frozen=True)
class Row:
    """A row of the data set, and the number it has there (from 1)."""

    number: int
    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Template:
    """How a conversation is written. The prompt is masked; the loss covers the answer and its end."""

    system: str
    before_answer: str

    def prompt(self, row: Row) -> str:
        asked = row.instruction + (f"\n\n{row.input}" if row.input else "")
        return f"{self.system}<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{self.before_answer}"


TEMPLATES = {
    "qwen3": Template("", "<think>\n\n</think>\n\n"),
    "qwen2": Template(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n", ""
    ),
}


def read_rows(name: str, revision: str | None) -> list[Row]:
    """Rows of a JSON or JSON-lines file, of a folder of them, or of a data set of the hub. Raises UserError."""
    path = Path(name)
    if path.is_file():
        return checked(_read_file(path), name)
    folder = resolve(name, revision, "dataset")
    files = sorted([*folder.glob("*.json"), *folder.glob("*.jsonl")])
    if next(folder.rglob("*.parquet"), None):
        return checked(_read_repository(folder), name)
    if len(files) != 1:
        raise UserError(f"{name}: a folder with parquet files or one .json or .jsonl file is needed, this has {len(files)}")
    return checked(_read_file(files[0]), str(files[0]))


def _read_file(path: Path) -> list[object]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error}") from None
    if path.suffix == ".jsonl":
        return [_parse(line, f"{path}:{n}") for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    found = _parse(text, str(path))
    if not isinstance(found, list):
        raise UserError(f"{path}: expected a list of rows")
    return found


def _parse(text: str, source: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = source if "\n" not in text else f"{source}:{error.lineno}"
        raise UserError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None


def _read_repository(folder: Path) -> Iterable[object]:
    """The `train` split of a folder that is laid out as a data set on the hub."""
    from datasets import disable_progress_bars, load_dataset  # late import: only for such folders
    from datasets.exceptions import DatasetsError

    disable_progress_bars()
    try:
        return load_dataset(str(folder), split="train")
    except (DatasetsError, ValueError) as error:
        raise UserError(f"{folder}: {' '.join(str(error).split())}") from None


def checked(rows: Iterable[object], source: str) -> list[Row]:
    """Rows with the texts they need. Raises UserError naming the first that lacks one."""
    found = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{source}: row {number} is no object")
        texts = {key: row.get(key, "" if key == "input" else None) for key in ("instruction", "input", "output")}
        for key, text in texts.items():
            if not isinstance(text, str):
                raise UserError(f"{source}: row {number} has no text {key!r} (it is {text!r})")
            if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
                raise UserError(f"{source}: row {number}: {key!r} holds half a character (a lone surrogate)")
        found.append(Row(number, **texts))
    return found


def load_tokenizer(folder: Path) -> Tokenizer:
    """A checkpoint's tokenizer. Raises UserError where it is not a Qwen tokenizer, FileNotFoundError where there is none."""
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


def encode(row: Row, tokenizer: Tokenizer, template: Template) -> tuple[list[int], list[int]]:
    """Ids and labels of a row. Prompt and answer are tokenised apart, so that no token spans both."""
    prompt = tokenizer.encode(template.prompt(row), add_special_tokens=False).ids
    answer = tokenizer.encode(row.output + END, add_special_tokens=False).ids
    return prompt + answer, [IGNORED] * len(prompt) + answer


@dataclass(frozen=True)
class Encoded:
    """A row that is used, as ids and labels."""

    row: Row
    ids: list[int]
    labels: list[int]


def encode_all(rows: list[Row], tokenizer: Tokenizer, template: Template, max_tokens: int) -> list[Encoded]:
    """The rows that can be used, at most `max_tokens` each; prints the numbers of those that are dropped or cut."""
    kept: list[Encoded] = []
    beyond = f"whose answer lies beyond {max_tokens} tokens"
    dropped: dict[str, list[int]] = {"with an empty answer": [], beyond: [], "that hold a chat token": []}
    cut: list[int] = []
    for row in rows:
        ids, labels = encode(row, tokenizer, template)
        if not row.output.strip():
            dropped["with an empty answer"].append(row.number)
        elif any(token in text for text in (row.instruction, row.input, row.output) for token in (PAD, START, END)):
            dropped["that hold a chat token"].append(row.number)
        elif all(label == IGNORED for label in labels[:max_tokens]):
            dropped[beyond].append(row.number)
        else:
            kept.append(Encoded(row, ids[:max_tokens], labels[:max_tokens]))
            if len(ids) > max_tokens:
                cut.append(row.number)
    for reason, numbers in dropped.items():
        print(f"Dropped {len(numbers)} rows {reason}{_named(numbers)}")
    print(f"Cut {len(cut)} rows to {max_tokens} tokens{_named(cut)}")
    return kept


def _named(numbers: list[int]) -> str:
    """The first few row numbers."""
    return f": {', '.join(map(str, numbers[:8]))}{', ...' if len(numbers) > 8 else ''}" if numbers else ""


def write(folder: Path, encoded: list[Encoded]) -> None:
    folder.mkdir()
    np.save(folder / "ids.npy", np.array([t for e in encoded for t in e.ids], np.int32))
    np.save(folder / "labels.npy", np.array([t for e in encoded for t in e.labels], np.int32))
    np.save(folder / "offsets.npy", np.cumsum([0, *(len(e.ids) for e in encoded)], dtype=np.int64))
    (folder / "rows.json").write_text(json.dumps([asdict(e.row) for e in encoded], indent=1), encoding="utf-8")


def main() -> int:
    given = parse(__doc__, "data")
    print("Step 2: Preparing training data...", flush=True)
    check_output(given.prepared, OUTPUTS)
    model = resolve(given.model, given.revision)
    tokenizer, config = load_tokenizer(model), read_json(model / "config.json")
    template, context = TEMPLATES.get(str(config.get("model_type"))), config.get("max_position_embeddings")
    if template is None:
        raise UserError(f"{model / 'config.json'}: model_type is none of {', '.join(TEMPLATES)}")
    if given.max_tokens > context:
        raise UserError(f"--max-tokens {given.max_tokens}: the context of {model} is {context} tokens")
    rows = read_rows(given.data, given.data_revision)
    if len(rows) > given.rows:
        rows = random.Random(given.seed).sample(rows, given.rows)
    print(f"Dataset size: {len(rows)} examples", flush=True)
    kept = encode_all(rows, tokenizer, template, given.max_tokens)
    if len(kept) <= given.held_out:
        raise UserError(f"{given.data}: {len(kept)} usable rows are too few to hold {given.held_out} out (--held-out)")
    with whole(given.prepared, OUTPUTS) as folder:
        write(folder / "train", kept[: -given.held_out])
        write(folder / "held_out", kept[-given.held_out :])
    targets = sum(label != IGNORED for e in kept for label in e.labels)
    print(f"Tokenization complete! {sum(len(e.ids) for e in kept):,} tokens, {targets:,} of them targets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
