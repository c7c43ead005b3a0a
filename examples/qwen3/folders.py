"""Where a checkpoint lies: a local folder as it is, a name on the Hugging Face hub downloaded."""

from __future__ import annotations

import sys
from pathlib import Path


def resolve(name: str, revision: str | None) -> Path:
    """A local folder as it is; a name on the hub is downloaded. Exits with one line where that cannot be done."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.startswith((".", "/")) or name.count("/") != 1:
        sys.exit(f"{name}: no such folder")
    from huggingface_hub import snapshot_download  # late import: only for names on the hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        sys.exit(
            f"{name}: cannot be downloaded ({type(error).__name__}): connect to the network, or download it elsewhere"
            " and pass the folder: --model FOLDER"
        )
