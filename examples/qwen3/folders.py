"""Folders: where a checkpoint lies, and outputs that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from problems import UserError


def resolve(name: str, revision: str | None, kind: str = "model") -> Path:
    """A local folder as it is; a name on the Hugging Face hub is downloaded. `kind`: "model" or "dataset".

    Raises UserError where that cannot be done.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"{name}: no such file or folder")
    from huggingface_hub import errors, snapshot_download  # late import: only for names on the hub

    patterns = ["*.json", "*.jsonl", "*.safetensors", "*.parquet", "*.jinja", "*.md", "merges.txt"]
    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=patterns))
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the hub has no revision {revision!r} of it") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{name}: no such folder here, and the hub has no such {kind}, or keeps it private") from None
    except (OSError, ValueError) as error:
        flag = "--model FOLDER" if kind == "model" else "--data FOLDER"
        raise UserError(
            f"{name}: no such folder here, and it cannot be downloaded ({type(error).__name__}): check the name,"
            f" connect to the network, or download it elsewhere and pass {flag}"
        ) from None


def check_output(out: Path, names: Collection[str]) -> None:
    """Whether `out` can be written, before any work is spent on it: nothing but `names` may be in it already.

    Raises UserError where it holds something else, OSError where it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: not a folder")
    others = sorted(path.name for path in out.iterdir() if path.name not in names) if out.exists() else []
    if others:
        raise UserError(f"{out}: holds {others[0]}, which would be lost; choose another --out")
    partial = _partial(out)
    partial.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial)


@contextmanager
def whole(out: Path, names: Collection[str]) -> Iterator[Path]:
    """A folder to write `names` into. It becomes `out` when the block ends well, replacing it, and is removed otherwise."""
    check_output(out, names)
    partial = _partial(out)
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            old = out.with_name(out.name + ".replaced")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(out, old)
            os.replace(partial, out)
            shutil.rmtree(old)
        else:
            os.replace(partial, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")
