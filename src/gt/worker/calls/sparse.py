"""Sparse tensors exist only inside a call: composed of operands before it, decomposed into results after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gt.errors import ProtocolError
from gt.wire import instructions as wire

COO = "sparse_coo"
ROWS = {"sparse_csr": torch.sparse_csr, "sparse_bsr": torch.sparse_bsr}
COLUMNS = {"sparse_csc": torch.sparse_csc, "sparse_bsc": torch.sparse_bsc}
BLOCKS = ("sparse_bsr", "sparse_bsc")
LAYOUTS: dict[str, torch.layout] = {COO: torch.sparse_coo, **ROWS, **COLUMNS}


def compose(given: wire.Sparse, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sparse tensor of these parts (indices and values; or compressed indices, plain indices and values).

    Raises RuntimeError for parts that do not fit each other and for indices out of range, which kernels do not check, and
    ProtocolError for a layout that does not have these parts.
    """
    if len(parts) != (2 if given.layout == COO else 3) or given.layout not in LAYOUTS:
        raise ProtocolError(f"{len(parts)} parts make no tensor of layout {given.layout!r}")
    if given.layout == COO:
        indices, values = parts
        return torch.sparse_coo_tensor(indices, values, given.size, check_invariants=True, is_coalesced=given.coalesced)
    compressed, plain, values = parts
    _check_compressed(given, compressed, plain, values)
    layout = LAYOUTS[given.layout]
    return torch.sparse_compressed_tensor(compressed, plain, values, given.size, layout=layout, check_invariants=False)


def _check_compressed(given: wire.Sparse, compressed: torch.Tensor, plain: torch.Tensor, values: torch.Tensor) -> None:
    """Checks all but the order of plain indices, which PyTorch's own check demands and its own products do not keep."""
    first = plain.dim()
    block = values.shape[first : first + 2] if given.layout in BLOCKS else (1, 1)
    dense = values.dim() - first - (2 if given.layout in BLOCKS else 0)
    sizes = given.size[len(given.size) - dense - 2 : len(given.size) - dense]
    rows, columns = (n // max(b, 1) for n, b in zip(sizes, block, strict=True))
    count, limit = (rows, columns) if given.layout in ROWS else (columns, rows)
    fits = compressed.shape == (*plain.shape[:-1], count + 1) and values.shape[:first] == plain.shape
    steps = compressed.diff()
    if not (
        fits
        and bool((compressed[..., 0] == 0).all() and (compressed[..., -1] == plain.shape[-1]).all() and (steps >= 0).all())
        and bool((plain >= 0).all() and (plain < limit).all())
    ):
        raise RuntimeError(f"the parts of a {given.layout} tensor do not fit each other, or its size {list(given.size)}")


def is_sparse(tensor: torch.Tensor) -> bool:
    """Whether the layout is one of `LAYOUTS`."""
    return tensor.layout in LAYOUTS.values()


def decompose(tensor: torch.Tensor) -> tuple[wire.Sparse, list[torch.Tensor]]:
    """The layout and size of a sparse tensor (without operands), and its parts in the order of `compose`."""
    name = str(tensor.layout).removeprefix("torch.")
    if name == COO:
        return wire.Sparse(name, (), tuple(tensor.shape), tensor.is_coalesced()), [tensor._indices(), tensor._values()]
    if name in ROWS:
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    else:
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return wire.Sparse(name, (), tuple(tensor.shape)), parts
