"""The safetensors format, where the library has no call for it: its dtypes, and a header without the tensors' bytes.

Source: github.com/huggingface/safetensors, "Format" in its README.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import save

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "BOOL": torch.bool,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu, "F4": torch.float4_e2m1fn_x2,
}  # fmt: skip
"""The format's names of dtypes (`Dtype`)."""
PACKED = {"F4": 2}
"""How many of the format's elements, in the last dim, make one of PyTorch's."""
ALIGNMENT = 8


def header(
    tensors: Mapping[str, tuple[Sequence[int], torch.dtype]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The start of a file with tensors of these sizes and dtypes, and where in the file the bytes of each begin.

    The order of the tensors is the library's, which writes an empty file of the same names for it.
    """
    empty = save({name: torch.empty(0, dtype=dtype) for name, (_, dtype) in tensors.items()}, dict(metadata))
    entries: dict[str, Any] = json.loads(empty[8 : 8 + int.from_bytes(empty[:8], "little")])
    begin, begins = 0, {}
    for name, entry in entries.items():
        if name not in tensors:
            continue  # the metadata
        size, dtype = tensors[name]
        *outer, last = size or [None]  # type: ignore[list-item]
        entry["shape"] = [] if last is None else [*outer, last * PACKED.get(entry["dtype"], 1)]
        begins[name] = begin
        end = begin + math.prod(size) * dtype.itemsize
        entry["data_offsets"] = [begin, end]
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    start = len(text).to_bytes(8, "little") + text
    return start, {name: len(start) + own for name, own in begins.items()}
