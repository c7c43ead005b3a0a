"""Step 1: load a Hugging Face checkpoint onto the worker, and verify the forward pass against `transformers`.

python load_weights.py --model FOLDER_OR_NAME [--revision REVISION]
"""

from __future__ import annotations

import os

from problems import UserError, read_json

if __name__ == "__main__" and os.environ.get("USE_PYTORCH") != "1":
    import gt  # noqa: F401  early, as in train.py: its worker starts during the other imports

# isort: split
import json
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import make_data
import make_tiny
import room
import torch
import verify
from config import Config
from folders import resolve
from model import Qwen3
from options import parse
from presets import PRESETS
from safetensors import SafetensorError, safe_open

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""What weights may be stored in, as safetensors files name it."""
FREQUENCIES = "rotary_emb.inv_freq"
"""Of the angles: older files hold them, and they are left out, since they follow from config.json."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a checkpoint: its file, dtype (as safetensors writes it) and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of a checkpoint, read only from the headers of its files. Raises UserError."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        return header(folder / "model.safetensors")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise UserError(f"{index}: weight_map does not map tensors to files")
    shards = {place: header(folder / place) for place in sorted(set(places.values()))}
    for name, place in places.items():
        if name not in shards[place]:
            raise UserError(f"{folder / place}: {name} is missing, although {index.name} lists it")
    return {name: shards[places.get(name, place)][name] for place, names in shards.items() for name in names}


def header(path: Path) -> dict[str, Entry]:
    """The tensors in a safetensors file, from its header; checks the file's size. Raises UserError."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            found = json.loads(file.read(min(length, size)))
        found.pop("__metadata__", None)
        entries = {name: Entry(path, entry["dtype"], tuple(entry["shape"])) for name, entry in found.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in found.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a safetensors file, or truncated in its header") from None
    if size != end:
        raise UserError(f"{path}: {size:,} bytes, but its header says {end:,}: the file is truncated or damaged")
    return entries


def checksum(folder: Path) -> str:
    """CRC-32 of a checkpoint's config and weights."""
    found = 0
    for path in sorted({folder / "config.json", *(entry.file for entry in entries(folder).values())}):
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                found = zlib.crc32(block, found)
    return f"{found:08x}"


def check(found: dict[str, Entry], model: Qwen3, folder: Path) -> dict[str, str]:
    """What to load: name in the model -> name in the files. Raises UserError for a missing, unexpected or misshapen one."""
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    names = _names(found, set(expected), folder)
    tied = model.config.tie_word_embeddings
    missing = sorted(set(expected) - set(names) - ({"lm_head.weight"} if tied else set()))
    if missing:
        raise UserError(f"{folder}: {missing[0]} is missing ({len(missing)} tensors in all)")
    unexpected = sorted(set(names) - set(expected))
    if unexpected:
        raise UserError(f"{folder}: unexpected tensor {unexpected[0]} ({len(unexpected)} in all)")
    for name, stored in names.items():
        entry = found[stored]
        if entry.shape != expected[name]:
            raise UserError(
                f"{entry.file}: {stored} has shape {list(entry.shape)}, config.json asks for {list(expected[name])}"
            )
        if entry.dtype not in DTYPES:
            raise UserError(f"{entry.file}: {stored} has dtype {entry.dtype}, expected {', '.join(DTYPES)}")
    return names


def _names(found: dict[str, Entry], expected: set[str], folder: Path) -> dict[str, str]:
    """Name in the model -> name in the files: a backbone saved by itself has no prefix `model.`."""
    names: dict[str, str] = {}
    for stored in sorted(found):
        name = f"model.{stored}" if stored not in expected and f"model.{stored}" in expected else stored
        if name in names:
            raise UserError(f"{folder}: holds {names[name]} and {stored}, which are one tensor")
        if not stored.endswith(FREQUENCIES):
            names[name] = stored
    return names


def stored_dtype(found: dict[str, Entry]) -> torch.dtype:
    """The dtype of a checkpoint's tensors, if they have the same, else float32, which holds each of them exactly."""
    dtypes = {entry.dtype for entry in found.values()}
    return DTYPES[dtypes.pop()] if len(dtypes) == 1 else torch.float32


def element_bytes(found: dict[str, Entry]) -> int:
    """Bytes of an element of a checkpoint's weights: of float32, if they have several dtypes."""
    return stored_dtype({name: entry for name, entry in found.items() if not name.endswith(FREQUENCIES)}).itemsize


def read(found: dict[str, Entry], names: list[str]) -> dict[str, torch.Tensor]:
    """Read the tensors file by file: onto GT's worker if the script imported gt, else memory-mapped. Raises UserError."""
    read_file = sys.modules["gt"].files.load_safetensors if "gt" in sys.modules else _read_mapped
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted({found[name].file for name in names}):
        try:
            tensors.update(read_file(file, [name for name in names if found[name].file == file]))
        except SafetensorError as error:
            raise UserError(f"{file}: {error}") from None
    return tensors


def _read_mapped(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}


def layout(folder: Path) -> tuple[Qwen3, dict[str, Entry], dict[str, str]]:
    """A checkpoint's model without weights, the tensors in its files, and what to load: see `check`. Raises UserError."""
    with torch.device("meta"):
        model = Qwen3(Config.from_json(folder / "config.json"))
    found = entries(folder)
    return model, found, check(found, model, folder)


def load(folder: Path) -> Qwen3:
    """Load the model of a checkpoint folder in the checkpoint's dtype. Raises UserError or FileNotFoundError."""
    model, found, names = layout(folder)
    stored = read(found, list(names.values()))
    tensors = {name: stored[in_files] for name, in_files in names.items()}
    embedding = tensors["model.embed_tokens.weight"]
    tied = model.config.tie_word_embeddings
    if tied:
        head = tensors.setdefault("lm_head.weight", embedding)
        if head is not embedding and not torch.equal(head, embedding):
            raise UserError(f"{folder}: lm_head.weight differs from the embedding that config.json ties it to")
    model.load_state_dict(tensors, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def main() -> int:
    given = parse(__doc__, "load_weights.py")
    print("Step 1: Loading weights from HuggingFace...", flush=True)
    if given.tiny_model:
        make_tiny.make(Path(given.model), "qwen3", make_tiny.texts_of(make_data.rows()))
    if given.preset and given.model == PRESETS[given.preset].model:
        room.check(
            PRESETS[given.preset].config, given, 2, room.available()
        )  # its files are bf16; before they are downloaded
    folder = resolve(given.model, given.revision)
    unloaded, found, names = layout(folder)
    print(room.check(unloaded.config, given, element_bytes(found), room.available()), flush=True)
    expected = verify.expected(folder, stored_dtype({name: found[name] for name in names.values()}))
    print(f"Model loaded. Vocab size: {unloaded.config.vocab_size}")
    print("Converting weights to GT format...", flush=True)
    model = load(folder)
    count = sum(p.numel() for p in model.parameters())
    print(f"Weight conversion complete! {count:,} parameters, every name, shape and dtype accounted for")
    apart, bound = verify.difference(model, expected), verify.TOLERANCE
    verdict = "PASSED" if apart <= bound else "FAILED"
    print(f"Forward pass verification {verdict} (largest relative difference {apart:.1e}, bound {bound:.0e})")
    return 0 if apart <= bound else 1


if __name__ == "__main__":
    sys.exit(main())
