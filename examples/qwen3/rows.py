"""Reads the rows of a data set, one at a time, from every kind of file that people have."""

from __future__ import annotations

import csv
import glob
import json
import random
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from folders import resolve
from problems import UserError
from shapes import Row, row_of, shape_of

Found = Iterator[tuple[str, object]]
"""Rows as they are in a file, each with its place: the file and the row's number there, from 1."""
CSV = {".csv": ",", ".tsv": "\t"}
"""Suffixes of such files, and what separates their cells."""
BY_DATASETS = {".parquet": "parquet", ".txt": "text"}
"""Suffixes of files that `datasets` reads, and how it calls them. Each line of a text is a row."""
AT_ONCE = 1000
"""Rows of a Parquet file that are in memory together."""


def read_rows(name: str, revision: str | None) -> Iterator[Row]:
    """Rows of a file, a folder or a data set on the hub, in order. Raises UserError, which names the file and row.

    Only a JSON file that is not JSON lines is read whole.
    """
    path = Path(name)
    if not path.is_file():
        path = resolve(name, revision, "dataset")
    number = 0
    for number, (where, found) in enumerate(_found(path), 1):
        try:
            row = row_of(found, number)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        yield row
    if number == 0:
        raise UserError(f"{name}: no rows")


def drawn(rows: Iterable[Row], count: int, seed: int) -> list[Row]:
    """All rows if there are no more than `count`, else so many drawn by the seed, in random order.

    Reservoir sampling (algorithm R): it holds only `count` rows.
    """
    pick = random.Random(seed)
    kept: list[Row] = []
    more = False
    for before, row in enumerate(rows):
        if before < count:
            kept.append(row)
            continue
        more = True
        place = pick.randrange(before + 1)
        if place < count:
            kept[place] = row
    if more:
        pick.shuffle(kept)
    return kept


def _found(path: Path) -> Found:
    if path.is_dir():
        files = [file for file in path.iterdir() if not file.name.startswith(".")]
        if len(files) != 1 or not files[0].is_file():
            return _by_datasets(path)
        path = files[0]
    kind = path.suffix.lower()
    if kind in BY_DATASETS:
        return _by_datasets(path)
    return _csv_rows(path, CSV[kind]) if kind in CSV else _json_rows(path)


def _json_rows(path: Path) -> Found:
    """Rows of JSON lines, or of an array, or of an object that holds one array of rows: the content decides."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # only "\n" ends a line, not U+2028
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            first = next(lines, None)
            if first is None:
                return
            second = next(lines, None) if _is_object(first[1]) else None
            if second:
                for row, (number, line) in enumerate(chain((first, second), lines), 1):
                    yield f"{path}: row {row}", _parse(line, f"{path}:{number}")
                return
        whole = _parse(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error}") from None
    for row, found in enumerate(_unwrapped(whole), 1):
        yield f"{path}: row {row}", found


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _unwrapped(whole: object) -> list[object]:
    """The rows of a JSON file that is not JSON lines; like `datasets`, takes the strings of an array for texts."""
    if isinstance(whole, dict) and not shape_of(whole):
        lists = [key for key, value in whole.items() if isinstance(value, list) and all(isinstance(v, dict) for v in value)]
        wrapper = "train" if "train" in lists else lists[0] if len(lists) == 1 else None
        whole = whole[wrapper] if wrapper else [whole]
    rows = whole if isinstance(whole, list) else [whole]
    return [{"text": row} if isinstance(row, str) else row for row in rows]


def _parse(text: str, source: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = source if "\n" not in text.rstrip() else f"{source}:{error.lineno}"
        raise UserError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, nesting without end
        raise UserError(f"{source}: not JSON that can be read: {error}") from None


def _csv_rows(path: Path, delimiter: str) -> Found:
    """Rows of a CSV file. Every cell is text: `datasets` would make numbers of "12" and nothing of "None"."""
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            for number, row in enumerate(reader, 1):
                if None in row:
                    raise UserError(f"{path}: row {number}: more cells than the header has")
                yield f"{path}: row {number}", row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error}") from None
    except csv.Error as error:
        raise UserError(f"{path}:{reader.reader.line_num}: not CSV: {error}") from None


def _by_datasets(path: Path) -> Found:
    """The rows of a file, or of the split `train` of a folder with any layout that `datasets` knows."""
    import datasets  # late import: only for these
    from huggingface_hub.utils import logging

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    logging.set_verbosity_error()
    try:
        if path.is_file():
            kind = BY_DATASETS[path.suffix.lower()]
            builder = datasets.load_dataset_builder(kind, data_files=glob.escape(str(path.resolve())))
        else:
            builder = datasets.load_dataset_builder(str(path.resolve()))
        splits = builder.config.data_files or {}
        if "train" not in splits:
            raise UserError(f"{path}: no split 'train', only {', '.join(map(repr, map(str, splits)))}")
        if builder.name == "json":
            yield from chain.from_iterable(_json_rows(Path(file)) for file in splits["train"])
        elif builder.name == "csv":
            yield from chain.from_iterable(_csv_rows(Path(file), builder.config.sep) for file in splits["train"])
        else:
            if builder.name == "parquet":  # by default a file's first group of rows, which may have none
                builder.config.batch_size = AT_ONCE
            for number, row in enumerate(builder.as_streaming_dataset(split="train"), 1):
                yield f"{path}: row {number}", row
    except UserError:
        raise
    except Exception as error:  # the libraries that read the files raise their own
        raise UserError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from None
