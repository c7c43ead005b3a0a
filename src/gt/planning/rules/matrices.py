"""Operators of linear algebra and Fourier transforms: the matrices of a batch, or the lines of a tensor, each by itself."""

from __future__ import annotations

from gt.planning.rule import Labels, Rule
from gt.planning.rules import labelling
from gt.planning.rules.reading import Row, Table, argument, dims
from gt.wire import instructions as wire


def batched(ins: tuple[int, ...], outs: tuple[int, ...]) -> Row:
    """A row of an operator on batches of matrices: for each operand and result the number of dims behind those of the batch,
    which all have."""

    def row(define: wire.Define) -> Rule | None:
        if len(define.ins) != len(ins) or len(define.outs) != len(outs):
            return None
        batch = define.ins[0].size[: len(define.ins[0].size) - ins[0]]
        given = {i: _labels(define.ins[i], count, batch) for i, count in enumerate(ins)}
        made = {o: _labels(g, count, batch) for o, (g, count) in enumerate(zip(define.outs, outs, strict=True)) if g}
        if None in given.values() or None in made.values():
            return None
        return labelling.rule(
            {i: x for i, x in given.items() if x is not None}, {o: x for o, x in made.items() if x is not None}
        )

    return row


def _labels(geometry: wire.Geometry, count: int, batch: tuple[int, ...]) -> Labels | None:
    if geometry.size[: max(len(geometry.size) - count, 0)] != batch:
        return None
    return (*range(len(batch)), *(None,) * count)


def distances(define: wire.Define) -> Rule | None:
    """`(x1 [..., m, d], x2 [..., n, d])` to the distances `[..., m, n]` of their rows."""
    batch: Labels = tuple(range(len(define.ins[0].size) - 2))
    return labelling.rule({0: (*batch, "m", None), 1: (*batch, "n", None)}, {0: (*batch, "m", "n")})


def transform(define: wire.Define) -> Rule | None:
    """A Fourier transform along some dims."""
    along = dims(argument(define, 1, "dim"), len(define.ins[0].size))
    if along is None or len(define.ins) != 1:
        return None
    labels = labelling.positions(define.ins[0].size, along)
    return labelling.rule({0: labels}, {0: labels})


TABLE: Table = {
    **dict.fromkeys(("_fft_c2c", "_fft_c2r", "_fft_r2c"), transform),
    "cholesky_inverse": batched((2,), (2,)),
    "linalg_cholesky_ex": batched((2,), (2, 0)),
    "linalg_inv_ex": batched((2,), (2, 0)),
    "linalg_qr": batched((2,), (2, 2)),
    "linalg_matrix_exp": batched((2,), (2,)),
    "_linalg_eigh": batched((2,), (1, 2)),
    "_linalg_det": batched((2,), (0, 2, 1)),
    "linalg_solve_triangular": batched((2, 2), (2,)),
    "linalg_lu_factor_ex": batched((2,), (2, 1, 0)),
    "linalg_lu_solve": batched((2, 1, 2), (2,)),
    "lu_unpack": batched((2, 1), (2, 2, 2)),
    "_linalg_slogdet": batched((2,), (0, 0, 2, 1)),
    "_linalg_solve_ex": batched((2, 2), (2, 2, 1, 0)),
    "_linalg_svd": batched((2,), (2, 1, 2)),
    **dict.fromkeys(("_cdist_forward", "_euclidean_dist"), distances),
}
