"""The safetensors format, where the library has no call for it: its dtypes, and files that are written tensor by tensor.

Source: github.com/huggingface/safetensors, "Format" in its README.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save

from gt.atomic import AtomicFile

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


class SafetensorsFile:
    """Writes a safetensors file tensor by tensor, completely or not at all: `finish` puts it at `target`.

    `tensors`: all that it will hold. Raises OSError where the file cannot be written.
    """

    def __init__(
        self, target: Path, tensors: Mapping[str, tuple[Sequence[int], torch.dtype]], metadata: Mapping[str, str]
    ) -> None:
        start, self._begins = header(tensors, metadata)
        self._whole = AtomicFile(target)
        try:
            self._whole.file.write(start)
        except BaseException:
            self._whole.close()
            raise

    def write(self, name: str, data: memoryview) -> None:
        """Write the elements of a tensor, row-major, in the size and dtype that were announced.

        Raises SafetensorError, as the library, where there is no room.
        """
        with _errors_of_the_library():
            self._whole.file.seek(self._begins[name])
            self._whole.file.write(data)

    def finish(self) -> None:
        """All tensors are written: put the file in its place. Raises as `write`."""
        with _errors_of_the_library():
            self._whole.finish()

    def close(self) -> None:
        """Remove what was written of a file that is not finished."""
        self._whole.close()


@contextmanager
def _errors_of_the_library() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise safetensors.SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from None
