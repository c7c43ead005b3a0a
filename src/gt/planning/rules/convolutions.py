"""Convolutions: the batch, and without groups the channels on either side. An image is never cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gt.planning.rule import Arguments, Label, Labels, Rule
from gt.planning.rules import labelling
from gt.planning.rules.reading import Table, argument
from gt.wire import instructions as wire

BATCH: frozenset[Label] = frozenset({"b"})
IN: frozenset[Label] = frozenset({"i"})
OUT: frozenset[Label] = frozenset({"o"})


def _terms(dims: int, transposed: bool, groups: int) -> tuple[Labels, Labels, Labels]:
    """The labels of input, weight and result; of weights in groups, none."""
    image: Labels = (None,) * (dims - 2)
    if groups != 1:
        return ("b", None, *image), (None,) * dims, ("b", None, *image)
    weight: Labels = ("i", "o", *image) if transposed else ("o", "i", *image)
    return ("b", "i", *image), weight, ("b", "o", *image)


def _is_batched(define: wire.Define) -> bool:
    sizes = {len(g.size) for g in define.ins[:2]}
    return len(define.ins) >= 2 and len(sizes) == 1 and min(sizes) > 2


def convolution(define: wire.Define) -> Rule | None:
    """`convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)`."""
    transposed, groups = argument(define, 6), argument(define, 8)
    if not _is_batched(define) or type(transposed) is not bool or type(groups) is not int:
        return None
    given, weight, made = _terms(len(define.ins[0].size), transposed, groups)
    ins: dict[int, Labels] = {0: given, 1: weight}
    if len(define.ins) == 3:
        ins[2] = (made[1],)
    return labelling.rule(ins, {0: made}, sums={0: IN}, once={2: IN} if len(define.ins) == 3 else {})


def convolution_backward(define: wire.Define) -> Rule | None:
    """`convolution_backward(grad, input, weight, bias sizes, ..., groups, mask)`: gradients of input, weight and bias."""
    transposed, groups, mask = argument(define, 7), argument(define, 9), argument(define, 10)
    if not _is_batched(define) or type(transposed) is not bool or type(groups) is not int:
        return None
    given, weight, made = _terms(len(define.ins[0].size), transposed, groups)
    every: labelling.Results = [(given, OUT), (weight, BATCH), ((made[1],), BATCH)]
    found = labelling.masked({0: made, 1: given, 2: weight}, every, mask)
    return None if found is None else replace(found, localise=_sized_bias)


def _sized_bias(
    args: list[wire.Arg], kwargs: dict[str, wire.Arg], ins: Mapping[int, wire.Geometry], outs: Mapping[int, wire.Geometry]
) -> Arguments:
    """The size of the bias is the number of the local gradient's channels."""
    sizes: wire.Arg = [ins[0].size[1]] if isinstance(args[3], list) and args[3] else args[3]
    return [*args[:3], sizes, *args[4:]], kwargs


TABLE: Table = {"convolution": convolution, "convolution_backward": convolution_backward}
