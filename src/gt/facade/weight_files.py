"""`safetensors.torch.save_file`, and so `save_pretrained`: workers write what they hold, and this process holds no file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from gt import files
from gt.safetensors_format import DTYPES


def written_by_workers(original: Callable[..., None]) -> Callable[..., None]:
    """As the original, without a copy of the tensors here. What it refuses, it still refuses by its own error."""

    @functools.wraps(original)
    def save_file(tensors: Any, filename: Any, metadata: Any = None) -> None:
        if _is_for_workers(tensors, metadata) and _is_writable(filename):
            files.save_safetensors(tensors, filename, metadata)
        else:
            original(tensors, filename, metadata)

    return save_file


def _is_for_workers(tensors: Any, metadata: Any) -> bool:
    """Whether all are remote tensors of the kinds that a file holds, none of which shares its memory with another."""
    if not isinstance(tensors, dict) or not all(map(_is_plain, tensors.values())):
        return False
    memory = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    return 0 < len(tensors) == len(memory) and all(isinstance(text, str) for text in (*tensors, *_texts(metadata)))


def _is_plain(tensor: Any) -> bool:
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.device.type == "remote"
        and tensor.layout == torch.strided
        and tensor.dtype in DTYPES.values()
        and tensor.is_contiguous()
        and not (tensor.is_conj() or tensor.is_neg())
    )


def _texts(metadata: Any) -> list[Any]:
    return [text for pair in metadata.items() for text in pair] if isinstance(metadata, Mapping) else [metadata or ""]


def _is_writable(filename: Any) -> bool:
    """Whether it names a file, new or regular, in a folder."""
    if not isinstance(filename, (str, os.PathLike)):
        return False
    folder = os.path.dirname(os.path.abspath(filename))
    return os.path.isdir(folder) and (os.path.isfile(filename) or not os.path.lexists(filename))
