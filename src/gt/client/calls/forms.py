"""Forms: calls that differ in nothing but sizes. One call of a form is inferred; what the others make follows from it.

For the operators in `form_rows` every size of a result is one of the call's own sizes (of an operand, in an argument, or one
that the operator's row computes), and a call is right if certain of these equal each other. Which ones need not be known:
where another call of the form has all the equalities of one that was inferred, what was right stays right, and a result's
size is the one that stands in the same place. Where an equality is missing, which may have held by chance, the call is
inferred as well, and from then on only what both have in common is asked for. The worker compares the first results of each
definition with what is expected, as it always does. See docs/decisions/030-sizes-that-vary.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gt.client.calls.form_rows import row_of
from gt.client.calls.inference import Inferred
from gt.client.calls.schemas import OpOverload
from gt.client.calls.templates import Described
from gt.client.stream import geometry
from gt.client.stream.definitions import definitions
from gt.client.stream.geometry import TensorSpec

ONE = -1
"""The place of a size that is 1 in every call of a form."""


@dataclass(slots=True, frozen=True)
class Form:
    """A call, taken apart. `key`: all but its sizes, and which of these are 1. `sizes`: in the order of the arguments."""

    key: tuple[Any, ...]
    sizes: list[int]
    of_operands: bool
    """No other argument has sizes: calls of the form are defined alike but for their geometries."""


@dataclass(slots=True)
class _Result:
    """A fresh result. `places`: for each dim, where among the call's sizes its own stands, or `ONE`."""

    dtype: torch.dtype
    places: list[int]
    order: tuple[int, ...]
    """The dims in the order of memory, the outermost first."""

    def spec(self, sizes: Sequence[int]) -> TensorSpec:
        """Its geometry in a call of these sizes."""
        size = torch.Size([1 if place == ONE else sizes[place] for place in self.places])
        return geometry.intern(size, geometry.dense_stride(size, self.order), 0, self.dtype)


@dataclass(slots=True)
class KnownForm:
    """What the calls of a form that were inferred have in common."""

    equal: list[int]
    """For each size the first one that has equalled it in every call."""
    results: list[_Result | None]
    returns: Any
    """As `Inferred.shape`."""
    described: Described | None = None
    """What the definitions of all its calls have in common, if one was made and no argument but the operands has sizes."""

    @classmethod
    def first(cls, sizes: list[int], found: Inferred) -> KnownForm | None:
        """From the first call; None if its results are not as the rule says."""
        firsts: dict[int, int] = {}
        known = cls([firsts.setdefault(n, place) for place, n in enumerate(sizes)], [], found.shape)
        for spec in found.outs:
            result = None
            if spec is not None:
                places = [firsts.get(n, ONE) for n in spec.size]
                result = _Result(spec.dtype, places, geometry.dims_in_memory(spec.stride))
                if result.spec(sizes) is not spec:
                    return None
            known.results.append(result)
        return known

    def foretell(self, sizes: list[int]) -> Inferred | None:
        """What a call of these sizes makes and returns; None where it has to be inferred."""
        if [sizes[place] for place in self.equal] != sizes:
            return None
        return Inferred([r if r is None else r.spec(sizes) for r in self.results], self.returns)

    def narrowed(self, sizes: list[int], found: Inferred) -> KnownForm | None:
        """With one more call; None if its results are not as the rule says."""
        firsts: dict[tuple[int, int], int] = {}
        pairs = zip(self.equal, sizes, strict=True)
        equal = [firsts.setdefault(pair, place) for place, pair in enumerate(pairs)]
        known = KnownForm(equal, [], self.returns)
        for result, spec in zip(self.results, found.outs, strict=True):
            if result is None or spec is None:
                if result is not None or spec is not None:
                    return None
                known.results.append(None)
                continue
            places = [p if p == ONE else firsts.get((p, n), ONE) for p, n in zip(result.places, spec.size, strict=True)]
            found_now = _Result(result.dtype, places, result.order)
            if found_now.spec(sizes) is not spec:
                return None
            known.results.append(found_now)
        return known if found.shape == self.returns else None


def form_of(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], key: tuple[Any, ...]) -> Form | None:
    """A call's form; None for a call to which no rule applies. `key`: as the kernels find the call."""
    row = row_of(op)
    if row is None:
        return None
    specs = [k for k in key if type(k) is TensorSpec]
    more = row.more(args, specs)
    if more is None or min(more, default=1) < 1:
        return None
    forms = [spec.form for spec in specs]
    if None in forms:
        return None
    rest, pending = row.rest(args, kwargs, key, specs), iter(forms)
    parts = [next(pending) if type(k) is TensorSpec else k for k in rest]
    sizes = [n for spec in specs for n in spec.size] + more
    sizes += [k for k in rest if type(k) is int and k > 1]  # a size may have to equal one of these, or come from it
    return Form((*parts, *[n == 1 for n in more]), sizes, not row.free)


class Forms:
    """What is known of one operator's calls, by their forms."""

    def __init__(self) -> None:
        self._table: dict[tuple[Any, ...], KnownForm | None] = definitions.new_cache()

    def foretell(self, form: Form) -> tuple[KnownForm, Inferred] | None:
        """What is known of a call's form, and what a call of it makes and returns; None where it has to be inferred."""
        known = self._table.get(form.key)
        found = None if known is None else known.foretell(form.sizes)
        return None if known is None or found is None else (known, found)

    def learn(self, form: Form, found: Inferred) -> None:
        """Note what was inferred of a call."""
        if form.key not in self._table:
            self._table[form.key] = KnownForm.first(form.sizes, found)
        elif (known := self._table[form.key]) is not None:
            self._table[form.key] = known.narrowed(form.sizes, found)

    def results(self, form: Form | None, infer: Callable[[], list[TensorSpec]]) -> list[TensorSpec | None]:
        """The geometries of a call's results: foretold, or else inferred by `infer`."""
        foretold = None if form is None else self.foretell(form)
        if foretold is not None:
            found = foretold[1]
        else:
            found = Inferred([*infer()], None)
            if form is not None:
                self.learn(form, found)
        return found.outs
