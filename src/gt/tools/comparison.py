"""How far the tensors of two runs of one step are apart."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from gt.tools.tensor_file import TensorFile

GRADIENT = " (gradient)"
"""The end of the names of gradients."""
NOISE = 1e-6
"""A gradient that is this small, relative to all of them together, is rounding errors: it is compared with that."""
HALF = ("BF16", "F16")
FLOATS = ("F64", "F32", *HALF, "C64", "C128")


@dataclass(frozen=True)
class Limits:
    """The largest relative differences by norm: of 16-bit floats, or what was computed under autocast, and of others."""

    full: float
    half: float


@dataclass(frozen=True)
class Compared:
    """A tensor in both runs. `reason`: why it cannot be compared, if it cannot."""

    name: str
    dtype: str
    size: str
    difference: float
    limit: float
    reason: str = ""

    @property
    def differs(self) -> bool:
        """Whether it is too far apart."""
        return bool(self.reason) or not self.difference <= self.limit

    @property
    def severity(self) -> float:
        """What the worst are sorted by."""
        if self.reason or (self.difference and not self.limit):
            return math.inf
        return self.difference / self.limit if self.limit else 0.0


def compare(got: TensorFile, wanted: TensorFile, limits: Limits) -> list[Compared]:
    """All tensors in the order of their names, each gradient before its parameter."""
    halves = bool(got.metadata.get("computed_in") or wanted.metadata.get("computed_in"))
    norms = [_norm(wanted.array(name)) for name in wanted.names() if name.endswith(GRADIENT)]
    noise = NOISE * math.hypot(*(n for n in norms if math.isfinite(n)))
    names = sorted(got.names() | wanted.names(), key=_order)
    return [_compared(name, got, wanted, limits, halves, noise if name.endswith(GRADIENT) else 0.0) for name in names]


def _order(name: str) -> tuple[list[Any], bool]:
    pieces = re.split(r"(\d+)", name.removesuffix(GRADIENT))
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], not name.endswith(GRADIENT)


def _compared(name: str, got: TensorFile, wanted: TensorFile, limits: Limits, halves: bool, noise: float) -> Compared:
    missing = [where for where, file in (("one worker", wanted), ("several", got)) if name not in file.names()]
    dtype, size = (got if missing == ["one worker"] else wanted).kind(name)
    limit = (limits.half if halves or dtype in HALF else limits.full) if dtype in FLOATS else 0.0
    described = name, dtype, "x".join(map(str, size)) or "1"
    if missing:
        return Compared(*described, math.inf, limit, f"not there on {missing[0]}")
    if got.kind(name) != (dtype, size):
        return Compared(*described, math.inf, limit, f"{got.kind(name)[0]} {list(got.kind(name)[1])} on several workers")
    return Compared(*described, _difference(got.array(name), wanted.array(name), noise), limit)


def _difference(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], noise: float) -> float:
    """The norm of the difference, relative to that of what is wanted; infinite where only one is finite."""
    if got.dtype.kind not in "fc":
        return float(np.count_nonzero(got != wanted) / max(got.size, 1))
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(got)):
        return math.inf
    wide = np.complex128 if got.dtype.kind == "c" else np.float64
    apart = _norm(got[finite].astype(wide) - wanted[finite].astype(wide))
    return apart / (max(_norm(wanted[finite]), noise) or 1.0)


def _norm(array: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)))
