"""Step 2: turn Alpaca-format rows into token ids and labels that training memory-maps.

    python prepare_data.py --data FILE_OR_FOLDER_OR_NAME --model FOLDER_OR_NAME [--prepared FOLDER]

Writes `train/` and `held_out/`, each with ids.npy and labels.npy (int32, all rows concatenated; label -100: no target),
offsets.npy (int64, the start of each row, and the end) and rows.json, the rows as text; and chat.json, which names the
token that ends an answer. All or nothing.
"""

from __future__ import annotations

from problems import UserError

# isort: split
import json
import random
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import make_data
import numpy as np
from chat import END, PAD, START, Chat, Message, checksum, conversation, leaves_thinking_open
from config import Config
from folders import PREPARED, check_output, resolve, whole
from options import parse

IGNORED = -100


@dataclass(frozen=True)
class Row:
    """A row of the data set, and its number there (from 1)."""

    number: int
    instruction: str
    input: str
    output: str
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @property
    def turns(self) -> list[Message]:
        """The conversation up to the answer."""
        asked = self.instruction + (f"\n\n{self.input}" if self.input else "")
        return conversation(self.system, self.history, asked)

    @property
    def asked(self) -> list[str]:
        """The texts of these turns."""
        return [turn["content"] for turn in self.turns]


def read_rows(name: str, revision: str | None) -> list[Row]:
    """Rows of a JSON or JSON-lines file, a folder, or a data set on the hub. Raises UserError."""
    path = Path(name)
    if path.is_file():
        return checked(_read_file(path), name)
    folder = resolve(name, revision, "dataset")
    files = sorted([*folder.glob("*.json"), *folder.glob("*.jsonl")])
    if next(folder.rglob("*.parquet"), None):
        return checked(_read_repository(folder), name)
    if len(files) != 1:
        raise UserError(f"{name}: expected a folder with parquet files or one .json or .jsonl file, not {len(files)}")
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
    """The `train` split of a folder with the layout of a data set on the hub."""
    from datasets import disable_progress_bars, load_dataset  # late import: only for such folders
    from datasets.exceptions import DatasetsError

    disable_progress_bars()
    try:
        return load_dataset(str(folder), split="train")
    except (DatasetsError, ValueError) as error:
        raise UserError(f"{folder}: {' '.join(str(error).split())}") from None


def checked(rows: Iterable[object], source: str) -> list[Row]:
    """Rows whose texts are all present. Raises UserError, which names the first row that lacks one."""
    return [_checked(row, number, f"{source}: row {number}") for number, row in enumerate(rows, 1)]


def _checked(row: object, number: int, where: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object")
    texts = {key: row.get(key, "" if key == "input" else None) for key in ("instruction", "input", "output")}
    texts["system"] = row.get("system") or ""
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise UserError(f"{where}: 'history' is not a list of pairs, each a question and its answer")
    for key, text in (*texts.items(), *(("history", text) for pair in history for text in pair)):
        if not isinstance(text, str):
            raise UserError(f"{where} has no text {key!r} (it is {text!r})")
        if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
            raise UserError(f"{where}: {key!r} has a lone surrogate (half a character)")
    return Row(number, **texts, history=tuple((question, answer) for question, answer in history))


@dataclass(frozen=True)
class Encoded:
    """A usable row, as ids and labels."""

    row: Row
    prompt: str
    ids: list[int]
    labels: list[int]


def encode(row: Row, chat: Chat) -> Encoded:
    """Tokenise prompt and answer separately, so that no token spans both. Raises UserError if the template rejects it."""
    try:
        text = chat.prompt(row.turns)
    except UserError as error:
        raise UserError(f"row {row.number}: {error}") from None
    prompt = chat.tokenizer.encode(text, add_special_tokens=False).ids
    answer = chat.tokenizer.encode(row.output + chat.end, add_special_tokens=False).ids
    return Encoded(row, text, prompt + answer, [IGNORED] * len(prompt) + answer)


def encode_all(rows: list[Row], chat: Chat, max_tokens: int) -> list[Encoded]:
    """The usable rows, at most `max_tokens` each; prints the numbers of those that are dropped or cut."""
    kept: list[Encoded] = []
    beyond = f"whose answer lies beyond {max_tokens} tokens"
    dropped: dict[str, list[int]] = {"with an empty answer": [], beyond: [], "that hold a chat token": []}
    cut: list[int] = []
    for row in rows:
        encoded = encode(row, chat)
        if not row.output.strip():
            dropped["with an empty answer"].append(row.number)
        elif any(token in text for text in (row.output, *row.asked) for token in (PAD, START, END, chat.end_token)):
            dropped["that hold a chat token"].append(row.number)
        elif all(label == IGNORED for label in encoded.labels[:max_tokens]):
            dropped[beyond].append(row.number)
        else:
            kept.append(replace(encoded, ids=encoded.ids[:max_tokens], labels=encoded.labels[:max_tokens]))
            if len(encoded.ids) > max_tokens:
                cut.append(row.number)
    for reason, numbers in dropped.items():
        print(f"Dropped {len(numbers)} rows {reason}{_named(numbers)}")
    print(f"Cut {len(cut)} rows to {max_tokens} tokens{_named(cut)}")
    return kept


def warn_of_the_template(encoded: list[Encoded], chat: Chat) -> None:
    """Print a line for each thing about the template that may surprise a user."""
    if chat.built_in:
        print("Warning: the checkpoint has no chat template; using that of Qwen's first releases, without reasoning")
    unsaid = [e.row.number for e in encoded if not all(text.strip() in e.prompt for text in e.row.asked)]
    if unsaid:
        print(f"Warning: the chat template omits some text of {len(unsaid)} rows{_named(unsaid)}")
    if any(leaves_thinking_open(e.prompt) for e in encoded):
        print("Warning: the chat template leaves <think> open before an answer; answers are learnt as reasoning")


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
    given = parse(__doc__, "prepare_data.py")
    print("Step 2: Preparing training data...", flush=True)
    check_output(given.prepared, PREPARED, given.made_of)
    model = resolve(given.model, given.revision)
    config = Config.from_json(model / "config.json")
    if given.max_tokens > config.max_position_embeddings:
        raise UserError(
            f"--max-tokens {given.max_tokens}: the context of {model} is {config.max_position_embeddings} tokens"
        )
    chat = Chat.open(model, "qwen3" if config.qk_norm else "qwen2")
    if given.tiny_data:
        make_data.write(Path(given.data))
    rows = read_rows(given.data, given.data_revision)
    if len(rows) > given.rows:
        rows = random.Random(given.seed).sample(rows, given.rows)
    print(f"Dataset size: {len(rows)} examples", flush=True)
    kept = encode_all(rows, chat, given.max_tokens)
    if len(kept) <= given.held_out:
        raise UserError(f"{given.data}: {len(kept)} usable rows are too few to hold out {given.held_out} (--held-out)")
    warn_of_the_template(kept, chat)
    with whole(given.prepared, PREPARED, given.made_of) as folder:
        write(folder / "train", kept[: -given.held_out])
        write(folder / "held_out", kept[-given.held_out :])
        (folder / "chat.json").write_text(json.dumps({"end": chat.end_token, "tokenizer": checksum(model)}) + "\n")
    targets = sum(label != IGNORED for e in kept for label in e.labels)
    print(f"Tokenization complete! {sum(len(e.ids) for e in kept):,} tokens, {targets:,} of them targets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
