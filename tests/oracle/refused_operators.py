"""Entries of PyTorch's operator database that GT refuses, and why. This table may only shrink."""

from __future__ import annotations

SPARSE = "compressed sparse layouts have no place on a worker yet: remote tensors are strided, or COO made of strided ones"

REFUSED: dict[tuple[str, str], str] = {
    ("sparse.sampled_addmm", "forward"): SPARSE,
    ("sparse.mm.reduce", "forward"): SPARSE,
}
