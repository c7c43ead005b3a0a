"""Operators on images, each channel of each by itself: pooling, resampling, padding with what is there."""

from __future__ import annotations

from dataclasses import replace

from gt.planning.rule import Labels, Rule
from gt.planning.rules import labelling
from gt.planning.rules.reading import Row, Table, argument
from gt.planning.rules.shapes import sized_by_result
from gt.wire import instructions as wire


def images(dims: int, size_at: int = -1) -> Row:
    """A row of an operator whose operands and results all have the same leading dims, and `dims` more that are whole.

    `size_at`: the position of an argument that is the size of the result.
    """

    def row(define: wire.Define) -> Rule | None:
        count = len(define.ins[0].size) - dims
        if count < 0:
            return None
        ins = {i: _leading(g, count) for i, g in enumerate(define.ins)}
        outs = {o: _leading(g, count) for o, g in enumerate(define.outs) if g is not None}
        found = labelling.rule(ins, outs)
        return replace(found, localise=sized_by_result(size_at)) if size_at >= 0 else found

    return row


def _leading(geometry: wire.Geometry, count: int) -> Labels:
    return tuple(k if k < count else None for k in range(len(geometry.size)))


def grid_sampler(define: wire.Define) -> Rule | None:
    """`grid_sampler(input [b, c, ...], grid [b, ..., dims])`: where to look is the same for all channels."""
    given: Labels = ("b", "c", *(None,) * (len(define.ins[0].size) - 2))
    grid: Labels = ("b", *(("space", k) for k in range(len(define.ins[1].size) - 2)), None)
    return labelling.rule({0: given, 1: grid}, {0: ("b", "c", *grid[1:-1])})


def grid_sampler_backward(define: wire.Define) -> Rule | None:
    """`grid_sampler_backward(grad, input, grid, mode, padding, align, mask)`: the gradients of input and grid."""
    given: Labels = ("b", "c", *(None,) * (len(define.ins[1].size) - 2))
    places: Labels = tuple(("space", k) for k in range(len(define.ins[2].size) - 2))
    results: labelling.Results = [(given, labelling.labels_in([places])), (("b", *places, None), frozenset({"c"}))]
    ins: dict[int, Labels] = {0: ("b", "c", *places), 1: given, 2: ("b", *places, None)}
    return labelling.masked(ins, results, argument(define, 6, "output_mask"))


def batch(define: wire.Define) -> Rule | None:
    """Only the first dim, which all operands and results have."""
    ins = {i: _leading(g, 1) for i, g in enumerate(define.ins)}
    return labelling.rule(ins, {o: _leading(g, 1) for o, g in enumerate(define.outs) if g is not None})


_POOLS = {
    "avg_pool{n}d": (2, 3),
    "avg_pool{n}d_backward": (2, 3),
    "max_pool{n}d_with_indices": (2, 3),
    "max_pool{n}d_with_indices_backward": (2, 3),
    "_adaptive_avg_pool{n}d": (2, 3),
    "_adaptive_avg_pool{n}d_backward": (2, 3),
    "adaptive_max_pool{n}d": (2, 3),
    "adaptive_max_pool{n}d_backward": (2, 3),
    "max_unpool{n}d": (2, 3),
    "fractional_max_pool{n}d": (2, 3),
    "fractional_max_pool{n}d_backward": (2, 3),
    "reflection_pad{n}d": (1, 2, 3),
    "reflection_pad{n}d_backward": (1, 2, 3),
    "replication_pad{n}d": (1, 2, 3),
    "replication_pad{n}d_backward": (1, 2, 3),
}
"""Names by the number of an image's dims."""
_RESAMPLINGS = {
    "upsample_nearest{n}d": (1, 2, 3),
    "_upsample_nearest_exact{n}d": (1, 2, 3),
    "upsample_linear{n}d": (1,),
    "upsample_bilinear{n}d": (2,),
    "upsample_bicubic{n}d": (2,),
    "upsample_trilinear{n}d": (3,),
    "_upsample_bilinear{n}d_aa": (2,),
    "_upsample_bicubic{n}d_aa": (2,),
}
TABLE: Table = {
    **{name.format(n=n): images(n) for name, several in _POOLS.items() for n in several},
    **{name.format(n=n): images(n) for name, several in _RESAMPLINGS.items() for n in several},
    **{f"{name}_backward".format(n=n): images(n, 2) for name, several in _RESAMPLINGS.items() for n in several},
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), grid_sampler),
    **dict.fromkeys(("grid_sampler_2d_backward", "grid_sampler_3d_backward"), grid_sampler_backward),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), images(3)),
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle", "im2col", "col2im"), batch),
}
