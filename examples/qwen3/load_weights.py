"""Step 1: load a Hugging Face checkpoint onto the worker, and verify the forward pass against `transformers`.

python load_weights.py --model FOLDER_OR_NAME [--revision REVISION]
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fetch import resolve
from model import Config, Qwen3, torch

TOLERANCE = 1e-5
"""Largest difference of two logits, relative to the largest logit (float32)."""


class CheckpointError(Exception):
    """A checkpoint is not what it should be; the message names the file and the tensor."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a checkpoint: its file, dtype (as safetensors writes it) and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of a checkpoint, from the headers of its files alone. Raises CheckpointError."""
    index = folder / "model.safetensors.index.json"
    sharded = json.loads(index.read_text())["weight_map"].values() if index.exists() else ["model.safetensors"]
    names = sorted(set(sharded))
    found: dict[str, Entry] = {}
    for name in names:
        found.update(_header(folder / name))
    return found


def _header(path: Path) -> dict[str, Entry]:
    """The header of a safetensors file, and whether the file is as long as it says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (struct.error, ValueError, MemoryError, OverflowError):
        raise CheckpointError(f"{path}: not a safetensors file, or cut short in its header") from None
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != end:
        raise CheckpointError(f"{path}: {size:,} bytes where its header says {end:,}: the file is cut short or damaged")
    return {name: Entry(path, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def check(found: dict[str, Entry], model: Qwen3, folder: Path) -> list[str]:
    """The names to load. Raises CheckpointError for a missing, unexpected or misshapen tensor."""
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    tied = model.config.tie_word_embeddings
    missing = sorted(set(expected) - set(found) - ({"lm_head.weight"} if tied else set()))
    if missing:
        raise CheckpointError(f"{folder}: {missing[0]} is missing ({len(missing)} tensors in all)")
    unexpected = sorted(set(found) - set(expected))
    if unexpected:
        raise CheckpointError(f"{folder}: unexpected tensor {unexpected[0]} ({len(unexpected)} in all)")
    for name, entry in found.items():
        if entry.shape != expected[name]:
            raise CheckpointError(
                f"{entry.file}: {name} has shape {list(entry.shape)}, config.json asks for {list(expected[name])}"
            )
        if entry.dtype not in ("F32", "BF16", "F16"):
            raise CheckpointError(f"{entry.file}: {name} has dtype {entry.dtype}, expected F32, BF16 or F16")
    return sorted(found)


def read(found: dict[str, Entry], names: list[str]) -> dict[str, torch.Tensor]:
    """The tensors, file by file: under GT straight onto the worker, under PyTorch memory-mapped."""
    if hasattr(torch, "files"):
        load = torch.files.load_safetensors
    else:
        from safetensors import safe_open  # late import: the plain PyTorch way

        def load(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in names}

    files = sorted({found[name].file for name in names})
    return {k: v for f in files for k, v in load(f, [n for n in names if found[n].file == f]).items()}


def load(folder: Path) -> Qwen3:
    """The model of a checkpoint folder, in the checkpoint's dtype. Raises CheckpointError or ValueError."""
    try:
        config = Config.from_json(folder / "config.json")
    except FileNotFoundError:
        raise CheckpointError(f"{folder / 'config.json'}: no such file") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from None
    with torch.device("meta"):
        model = Qwen3(config)
    found = entries(folder)
    tensors = read(found, check(found, model, folder))
    embedding = tensors["model.embed_tokens.weight"]
    if config.tie_word_embeddings:
        head = tensors.setdefault("lm_head.weight", embedding)
        if head is not embedding and not torch.equal(head, embedding):
            raise CheckpointError(f"{folder}: lm_head.weight differs from the embedding that config.json ties it to")
    model.load_state_dict(tensors, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def difference(model: Qwen3, folder: Path) -> float:
    """Largest relative difference of the logits from those of `transformers`, both in float32."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch as local  # late import: transformers runs on this machine's PyTorch, whatever the model runs on
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=local.float32).eval()
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 32))
    with local.no_grad():
        expected = reference(local.from_numpy(ids)).logits.numpy()
        got = model.float()(torch.from_numpy(ids)).cpu().numpy()
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder, or a name on the Hugging Face hub")
    parser.add_argument("--revision", help="commit, tag or branch on the hub")
    given = parser.parse_args()
    print("Step 1: Loading weights from HuggingFace...", flush=True)
    folder = resolve(given.model, given.revision)
    try:
        print(f"Model loaded. Vocab size: {Config.from_json(folder / 'config.json').vocab_size}")
        print("Converting weights to GT format...", flush=True)
        model = load(folder)
    except FileNotFoundError as error:
        sys.exit(f"{error.filename}: no such file")
    except (CheckpointError, ValueError) as error:
        sys.exit(str(error))
    count = sum(p.numel() for p in model.parameters())
    print(f"Weight conversion complete! {count:,} parameters, every name, shape and dtype accounted for")
    found = difference(model, folder)
    verdict = "PASSED" if found <= TOLERANCE else "FAILED"
    print(f"Forward pass verification {verdict} (largest relative difference {found:.1e}, bound {TOLERANCE:.0e})")
    return 0 if found <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
