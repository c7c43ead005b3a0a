"""Writes checkpoint folders that `transformers` loads: weights, config.json, and what lies beside the weights."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from folders import BESIDE_WEIGHTS, INDEX, OUTPUT, WEIGHTS, whole
from model import Qwen3
from problems import UserError, read_json
from safetensors import SafetensorError

FILE_BYTES = 5 * 10**9
"""The most that one file of weights holds, unless one tensor is larger; `transformers` has the same limit by default."""


class Saving(Protocol):
    """A file that is being written in the background, as `gt.files.save_safetensors` returns it."""

    def done(self) -> bool: ...
    def wait(self) -> None: ...


Save = Callable[[Mapping[str, torch.Tensor], Path], list[Saving]]
"""Writes tensors to a file; returns what to wait for if it is written in the background."""


def save_now(tensors: Mapping[str, torch.Tensor], path: Path) -> list[Saving]:
    """Write a safetensors file, by GT's workers if the script imported gt. Raises RuntimeError, OSError, SafetensorError."""
    write = sys.modules["gt"].files.save_safetensors if "gt" in sys.modules else safetensors.torch.save_file
    write(dict(tensors), path, {"format": "pt"})
    return []


def save_in_background(tensors: Mapping[str, torch.Tensor], path: Path) -> list[Saving]:
    """Have GT's workers write a safetensors file, with the values of now; PyTorch alone writes it before returning."""
    if "gt" not in sys.modules:
        return save_now(tensors, path)
    return [sys.modules["gt"].files.save_safetensors(dict(tensors), path, {"format": "pt"}, background=True)]


def write_folder(model: Qwen3, source: Path, folder: Path, save: Save) -> list[Saving]:
    """Write a model, with the config and the tokenizer of the checkpoint in `source`. Raises as `save`."""
    tensors = model.state_dict()
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    config = read_json(source / "config.json")
    config.pop("torch_dtype", None)  # the older name of `dtype`
    config["dtype"] = str(model.lm_head.weight.dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    copy_beside(source, folder)
    files = in_files(tensors)
    if len(files) > 1:
        places = {name: file for file, held in files.items() for name in held}
        index = {"metadata": {"total_size": sum(map(size_bytes, tensors.values()))}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return [saving for file, held in files.items() for saving in save(held, folder / file)]


def copy_beside(source: Path, folder: Path) -> None:
    """Copy the tokenizer and the other files of a checkpoint that are neither weights nor config."""
    for name in BESIDE_WEIGHTS:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
        elif (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def in_files(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors in order, by the file that each is written to, as `transformers` names them."""
    groups: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if groups[-1] and filled + size_bytes(tensor) > FILE_BYTES:
            groups.append({})
            filled = 0
        groups[-1][name] = tensor
        filled += size_bytes(tensor)
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def size_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def write_output(out: Path, made_of: Mapping[str, str], write: Callable[[Path, Save], list[Saving]]) -> None:
    """Write an output folder, all or nothing. `write` gets a folder, and how to save tensors. Raises UserError."""
    with whole(out, OUTPUT, made_of) as folder:
        try:
            write(folder, save_now)
        except (RuntimeError, SafetensorError) as error:
            if is_lost(error):
                raise
            raise UserError(f"{out}: the weights cannot be written: {' '.join(str(error).split())}") from error


def is_lost(error: BaseException) -> bool:
    """Whether the workers that have the tensors are gone."""
    return "gt" in sys.modules and isinstance(error, sys.modules["gt"].errors.GTError)
