"""Reading the tensors of a safetensors file by NumPy, which has no bfloat16: that becomes float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "C64": "<c8", "C128": "<c16",
}  # fmt: skip
"""By the names of the format; tensors of others are compared by their bytes."""


class TensorFile:
    """The tensors of a file, which may be gone afterwards: it stays open. `metadata`: texts by name."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._entries: dict[str, dict[str, Any]] = json.loads(file.read(length))
        self.metadata: dict[str, str] = self._entries.pop("__metadata__", {})
        self._data = np.memmap(path, np.uint8, "r", 8 + length) if self._entries else np.empty(0, np.uint8)

    def names(self) -> set[str]:
        """The names of the tensors."""
        return set(self._entries)

    def kind(self, name: str) -> tuple[str, tuple[int, ...]]:
        """A tensor's dtype, as the format calls it, and its size."""
        entry = self._entries[name]
        return entry["dtype"], tuple(entry["shape"])

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """A tensor's elements, in a row."""
        entry = self._entries[name]
        begin, end = entry["data_offsets"]
        found = self._data[begin:end].view(DTYPES.get(entry["dtype"], "u1"))
        if entry["dtype"] == "BF16":
            return (found.astype(np.uint32) << 16).view(np.float32)
        return found
