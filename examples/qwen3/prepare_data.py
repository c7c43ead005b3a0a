"""Step 2: turn Alpaca-format rows into token ids and labels that training maps into memory.

    python prepare_data.py --data FILE_OR_FOLDER_OR_NAME --model FOLDER --out FOLDER

Writes `train/` and `held_out/`, each with ids.npy and labels.npy (int32, all rows end to end; -100 is no target) and
offsets.npy (int64, where each row begins, and the end), and held_out/rows.json. All of it or nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

IGNORED = -100
Row = dict[str, str]


class DataError(Exception):
    """A data set cannot be used; the message names the file and the row."""


@dataclass(frozen=True)
class Template:
    """How a conversation is written. The prompt is masked; the loss covers the answer and its end."""

    system: str
    before_answer: str

    def prompt(self, row: Row) -> str:
        asked = row["instruction"] + ("\n\n" + row["input"] if row.get("input") else "")
        return f"{self.system}<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{self.before_answer}"


TEMPLATES = {
    "qwen3": Template("", "<think>\n\n</think>\n\n"),
    "qwen2": Template(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n", ""
    ),
}
END = "<|im_end|>"


def read_rows(name: str, revision: str | None) -> list[Row]:
    """Rows of a JSON or JSON-lines file, of a folder that holds one, or of a data set on the hub."""
    path = Path(name)
    if path.is_dir():
        files = sorted([*path.glob("*.json"), *path.glob("*.jsonl"), *path.glob("*.parquet")])
        if not files:
            raise DataError(f"{path}: no .json, .jsonl or .parquet file")
        path = files[0]
    if path.is_file():
        return checked(_read_file(path), str(path))
    if name.startswith((".", "/")) or name.count("/") != 1:
        raise DataError(f"{name}: no such file or folder")
    return checked(_download(name, revision), name)


def _read_file(path: Path) -> Iterable[object]:
    if path.suffix == ".parquet":
        import pyarrow.parquet  # late import: only for this format

        return list(pyarrow.parquet.read_table(path).to_pylist())
    text = path.read_text()
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(found, list):
        raise DataError(f"{path}: expected a list of rows")
    return found


def _download(name: str, revision: str | None) -> Iterable[object]:
    from datasets import load_dataset  # late import: only for names on the hub

    try:
        return list(load_dataset(name, split="train", revision=revision))
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name}: cannot be downloaded ({type(error).__name__}): connect to the network, or download it elsewhere"
            " and pass the file: --data FILE"
        ) from None


def checked(rows: Iterable[object], source: str) -> list[Row]:
    """Rows with the texts they need. Raises DataError naming the first that lacks one."""
    found = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{source}: row {number} is no object")
        for key in ("instruction", "output"):
            if not isinstance(row.get(key), str):
                raise DataError(f"{source}: row {number} has no text {key!r}")
        if not isinstance(row.get("input", ""), str):
            raise DataError(f"{source}: row {number}: 'input' is no text")
        found.append({k: row.get(k, "") for k in ("instruction", "input", "output")})
    return found


def encode(row: Row, tokenizer: Tokenizer, template: Template, max_tokens: int) -> tuple[list[int], list[int]]:
    """Ids and labels of a row, at most `max_tokens`. Prompt and answer are tokenised apart, so no token spans both."""
    prompt = tokenizer.encode(template.prompt(row), add_special_tokens=False).ids
    answer = tokenizer.encode(row["output"] + END, add_special_tokens=False).ids
    ids, labels = prompt + answer, [IGNORED] * len(prompt) + answer
    return ids[:max_tokens], labels[:max_tokens]


def write(folder: Path, encoded: list[tuple[list[int], list[int]]]) -> None:
    folder.mkdir(parents=True)
    lengths = [len(ids) for ids, _ in encoded]
    np.save(folder / "ids.npy", np.array([t for ids, _ in encoded for t in ids], np.int32))
    np.save(folder / "labels.npy", np.array([t for _, labels in encoded for t in labels], np.int32))
    np.save(folder / "offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))


def prepare(rows: list[Row], model: Path, out: Path, max_tokens: int, held_out: int) -> None:
    """Write the folder `out`, replacing an earlier one only when all of it is there."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    if tokenizer.token_to_id(END) is None:
        raise DataError(f"{model / 'tokenizer.json'}: no token {END!r}: not a Qwen tokenizer")
    template = TEMPLATES[json.loads((model / "config.json").read_text())["model_type"]]
    kept, empty, cut = [], 0, 0
    for row in rows:
        if not row["output"].strip():
            empty += 1
            continue
        ids, labels = encode(row, tokenizer, template, max_tokens)
        if all(label == IGNORED for label in labels):
            cut += 1
            continue
        kept.append((row, ids, labels))
    if len(kept) <= held_out:
        raise DataError(f"{len(kept)} usable rows are too few to hold {held_out} out")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    parts = {"held_out": kept[len(kept) - held_out :], "train": kept[: len(kept) - held_out]}
    for name, part in parts.items():
        write(partial / name, [(ids, labels) for _, ids, labels in part])
    (partial / "held_out" / "rows.json").write_text(json.dumps([row for row, _, _ in parts["held_out"]], indent=1))
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    print(f"Dropped {empty} rows with an empty answer and {cut} whose answer lies beyond {max_tokens} tokens")
    targets = sum(label != IGNORED for _, _, labels in kept for label in labels)
    print(f"Tokenization complete! {sum(len(ids) for _, ids, _ in kept):,} tokens, {targets:,} of them targets")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="JSON, JSON lines or parquet; a folder with one; a name on the hub")
    parser.add_argument("--revision", help="revision of a data set on the hub")
    parser.add_argument("--model", required=True, type=Path, help="folder with tokenizer.json and config.json")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=1000, help="use this many rows, drawn by --seed (default 1000)")
    parser.add_argument("--held-out", type=int, default=50, help="rows kept from training (default 50)")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest row, in tokens (default 512)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("Step 2: Preparing training data...", flush=True)
    try:
        rows = read_rows(given.data, given.revision)
        if len(rows) > given.rows:
            rows = random.Random(given.seed).sample(rows, given.rows)
        print(f"Dataset size: {len(rows)} examples", flush=True)
        prepare(rows, given.model, given.out, given.max_tokens, given.held_out)
    except DataError as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
