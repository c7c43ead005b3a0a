"""Checkpoint folders, and all-or-nothing output folders (docs/decisions/012-outputs.md)."""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from problems import UserError, read_json

BESIDE_WEIGHTS = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "chat_template.jinja", "chat_templates", "generation_config.json",
)  # fmt: skip
"""Files of a checkpoint other than its weights and config."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
RESULT, OPTIONS = "training.json", "options.yaml"
OUTPUT = (
    "config.json", "adapter_config.json", WEIGHTS, INDEX, "model-*-of-*.safetensors", "adapter_model.safetensors",
    *BESIDE_WEIGHTS, RESULT, OPTIONS,
)  # fmt: skip
"""What a trained model or adapter, or a merged one, consists of: names and patterns of names."""
PREPARED = ("chat.json", "train", "held_out")
RECORD = "made_of.json"
"""Names the model and data that a folder was made from; written last."""
PARTIAL, KEPT, REPLACED, REMOVED = ".partial-", ".kept-", ".replaced", ".removed"
"""What is being written, what could not be moved into place, and where old files go."""
FOREIGN = {"lost+found"}
"""Entries that file systems create at their top."""


def resolve(name: str, revision: str | None, kind: str = "model") -> Path:
    """Return a local folder as it is, or download a name on the Hugging Face hub. `kind`: "model" or "dataset".

    Raises UserError if neither is possible.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"{name}: no such file or folder")
    from huggingface_hub import errors, snapshot_download  # late import: only for names on the hub

    patterns = [
        *("*.json", "*.jsonl", "*.safetensors", "*.jinja", "*.md", "merges.txt"),
        *("*.parquet", "*.ndjson", "*.csv", "*.tsv"),
    ]
    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=patterns))
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the hub has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{name}: no such folder here, and no such {kind} on the hub, or it is private") from None
    except (OSError, ValueError) as error:
        flag = "--model FOLDER" if kind == "model" else "--data FOLDER"
        raise UserError(
            f"{name}: no such folder here, and it cannot be downloaded ({type(error).__name__}): check the name,"
            f" connect to the network, or download it elsewhere and pass {flag}"
        ) from None


def identity(name: str, revision: str | None) -> str:
    """The name of a model or data set in a folder's record: its path, or its name on the hub."""
    place = Path(name)
    return str(place.resolve()) if place.exists() else f"{name}@{revision}" if revision else name


def fingerprint(path: Path) -> str:
    """Changes when a file's content does, or in a folder a file's name, size or time."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    held = [(file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file()]
    files = [(str(file.relative_to(path)), about.st_size, about.st_mtime_ns) for file, about in held]
    return hashlib.sha256(repr(files).encode()).hexdigest()


def shown(path: Path) -> str:
    """A path relative to the working directory where possible."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)


def check_output(out: Path, names: Sequence[str], made_of: Mapping[str, str], size_bytes: int = 0) -> None:
    """Check that `names`, `size_bytes` long, can be written into `out`, before any work is done.

    Raises UserError if `out` cannot hold them or has other content, OSError if it cannot be written.
    """
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out}: a dangling link to {os.readlink(out)}")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: not a folder")
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with suppress(BlockingIOError), _alone_in(out, fcntl.LOCK_NB):
            _end_killed_run(out, names)
        _check_held(out, names, made_of)
        trial = _partial(out)
        trial.mkdir()
        trial.rmdir()
        free = shutil.disk_usage(out).free
    finally:
        if new:
            out.rmdir()
    if free < size_bytes:
        raise UserError(f"{out}: needs {size_bytes / 1e6:,.1f} MB, but its disk has {free / 1e6:,.1f} MB left")


@contextmanager
def whole(out: Path, names: Sequence[str], made_of: Mapping[str, str]) -> Iterator[Path]:
    """A folder to write some of `names` into; they replace those of `out` if the block succeeds, and are removed otherwise.

    They are written inside `out`, so that it may be a mount point, a link or the working directory, and moved once they
    are complete. If that fails they are kept, and the UserError says where. The first of `names`, which may be patterns, is
    removed first and added last: a reader finds the old files, the new ones, or a folder without that file.
    """
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    partial = _partial(out)
    with _alone_in(out):
        _end_killed_run(out, names)
        try:
            partial.mkdir()
            yield partial
            _complete(partial, made_of)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if new:
                with suppress(OSError):  # another run has written there in the meantime
                    out.rmdir()
            if isinstance(error, OSError) and not isinstance(error, ConnectionError):  # that is of the workers
                raise UserError(f"{out}: cannot be written: {error}") from None
            raise
        try:
            _check_held(out, names, made_of, mine=partial)
            _put_in_place(partial, out, (RECORD, *names))
        except (OSError, UserError) as error:
            kept = out / f"{KEPT}{os.getpid()}"
            partial.rename(kept)
            raise UserError(f"{out}: cannot be moved into place ({error}); it is complete in {kept}") from None


def write_beside(out: Path, name: str, text: str) -> None:
    """Write one more file into a complete output folder, whole or not at all."""
    partial = out / f"{PARTIAL}{name}"
    partial.write_text(text, encoding="utf-8")
    partial.replace(out / name)


def _partial(out: Path) -> Path:
    return out / f"{PARTIAL}{os.getpid()}"


def _check_held(out: Path, names: Sequence[str], made_of: Mapping[str, str], mine: Path | None = None) -> None:
    """Raises UserError if `out` holds anything but the output of an earlier run with the same model and data."""
    held = {path.name for path in out.iterdir()} - FOREIGN - ({mine.name} if mine else set())
    for name in sorted(held):
        if name == REPLACED:
            raise UserError(f"{out}: {name} in it holds the files that an interrupted run was replacing; move them back")
        if name.startswith((KEPT, PARTIAL)) and (out / name / RECORD).exists():
            raise UserError(f"{out}: {name} in it holds files that an earlier run could not move into place; move it away")
    own = set(_matching(held, names))
    others = sorted(name for name in held - own - {RECORD} if not name.startswith((PARTIAL, REMOVED)))
    if own and RECORD not in held:
        others += sorted(own)
    if others:
        raise UserError(f"{out}: holds {others[0]}, which no earlier run wrote; choose another folder")
    before = read_json(out / RECORD) if RECORD in held else made_of
    for key, value in made_of.items():
        if before.get(key) != value:
            raise UserError(f"{out}: was made from the {key} {before.get(key)}, not from {value}; choose another folder")


def _matching(held: Iterable[str], names: Sequence[str]) -> list[str]:
    """Those of `held` that are among `names`, in their order."""
    found = sorted(held)
    return [name for pattern in names for name in fnmatch.filter(found, pattern)]


@contextmanager
def _alone_in(out: Path, or_not: int = 0) -> Iterator[None]:
    """Wait while another run writes into `out`. `or_not`: with LOCK_NB raise BlockingIOError instead."""
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | or_not)
        yield
    finally:
        os.close(folder)


def _end_killed_run(out: Path, names: Sequence[str]) -> None:
    """What is under way in `out`, of which nobody has the lock, is of a run that was killed. What it had completed is moved
    into place, unless it had begun to replace old files; what it had not is removed.
    """
    replaced = out / REPLACED
    with suppress(OSError):  # there are files in it, or it is not there
        replaced.rmdir()
    for left in out.glob(f"{PARTIAL}*"):
        if left.is_file():  # of `write_beside`
            left.unlink()
        elif not (left / RECORD).exists():
            shutil.rmtree(left)
        elif replaced.exists():
            pass
        elif (out / RECORD).exists():  # it is removed before any other old file
            if read_json(left / RECORD) == read_json(out / RECORD):
                _put_in_place(left, out, (RECORD, *names))
        elif not any((out / path.name).exists() for path in left.iterdir()):
            for path in sorted(left.iterdir(), key=lambda path: path.name == RECORD):  # the record last
                path.rename(out / path.name)
            left.rmdir()


def _complete(partial: Path, made_of: Mapping[str, str]) -> None:
    """Flush the new files to disk before any old one is removed."""
    (partial / RECORD).write_text(json.dumps(made_of, indent=2) + "\n")
    flush(*partial.rglob("*"), partial)


def flush(*paths: Path) -> None:
    """Flush files and folders to the disk."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _put_in_place(partial: Path, out: Path, names: Sequence[str]) -> None:
    """Move old files out and new ones in; undo all moves if one fails."""
    replaced, removed = out / REPLACED, out / REMOVED
    shutil.rmtree(removed, ignore_errors=True)
    replaced.mkdir()
    old, new = (_matching((path.name for path in folder.iterdir()), names) for folder in (out, partial))
    moves = [(out / name, replaced / name) for name in old]
    moves += [(partial / name, out / name) for name in reversed(new)]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
        os.replace(replaced, removed)  # from here on the old files are not needed to undo
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        replaced.rmdir()
        raise
    shutil.rmtree(removed, ignore_errors=True)
    partial.rmdir()
