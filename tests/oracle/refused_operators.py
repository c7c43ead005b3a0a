"""Entries of PyTorch's operator database that GT refuses, and why. This table may only shrink."""

from __future__ import annotations

SPARSE = "sparse layouts have no place on a worker yet: remote tensors are strided"

REFUSED: dict[tuple[str, str], str] = {
    ("sparse.sampled_addmm", "forward"): SPARSE,
    ("sparse.mm.reduce", "forward"): SPARSE,
    ("to_sparse", "forward"): SPARSE,
}
