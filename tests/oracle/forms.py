"""What is foretold of calls by their forms, compared with inference, over PyTorch's operator database.

    python -m tests.oracle.forms [NAME ...]

Each call that is inferred is inferred once more with other sizes, equal where the first ones were equal: what follows from
the first must be what is inferred of the second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db

import gt.fakes
from gt.client.calls import forms, inference
from gt.client.calls.defined import DefinedCall
from gt.client.kernels.learning import Learner
from gt.client.stream import geometry
from gt.client.stream.geometry import TensorSpec
from tests.oracle import operators

SAMPLES = 20
"""Samples of an entry and dtype, drawn at random."""


@dataclass
class Compared:
    """`calls`: how many were compared, by operator. `wrong`: what was foretold otherwise than it was inferred."""

    calls: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def comparing() -> Iterator[Compared]:
    """Compares each call that is inferred meanwhile."""
    compared, original = Compared(), Learner._inferred

    def inferred(self: Learner, args: tuple[Any, ...], kwargs: dict[str, Any], key: tuple[Any, ...]) -> Any:
        call = original(self, args, kwargs, key)
        form = forms.form_of(self._op, args, kwargs, key)
        if form is not None and isinstance(call, DefinedCall):
            _compare(compared, self, args, kwargs, key)
        return call

    Learner._inferred = inferred  # type: ignore[method-assign]
    try:
        yield compared
    finally:
        Learner._inferred = original  # type: ignore[method-assign]


def _compare(compared: Compared, learner: Learner, args: Any, kwargs: Any, key: tuple[Any, ...]) -> None:
    op, literals = learner._op, {k for k in key if type(k) is int}
    specs = [k for k in key if type(k) is TensorSpec]
    values = sorted({n for spec in specs for n in spec.size if n > 1} - literals)
    other = {n: n + 3 * (rank + 1) for rank, n in enumerate(values)}
    resized = [_resized(spec, other) for spec in specs]
    if None in resized:
        return
    pending = iter(resized)
    form = forms.form_of(op, args, kwargs, tuple([next(pending) if type(k) is TensorSpec else k for k in key]))
    found_form = None if form is None else learner._forms.foretell(form)
    if found_form is None:
        return
    _, foretold = found_form
    name = op.name()
    compared.calls[name] = compared.calls.get(name, 0) + 1
    try:
        found = inference.infer(op, args, kwargs, [spec for spec in resized if spec is not None])
    except Exception as error:
        compared.wrong.append(f"{name}: {_shown(specs)} as {_shown(resized)} raises {error!r:.200}")
        return
    if found != foretold:
        made = f"makes {_shown(found.outs)}, not {_shown(foretold.outs)}"
        compared.wrong.append(f"{name}: {_shown(specs)} as {_shown(resized)} {made}")


def _resized(spec: TensorSpec, other: dict[int, int]) -> TensorSpec | None:
    """A tensor whose dims have the same order in memory; None where there are gaps."""
    order = geometry.dims_in_memory(spec.stride)
    if geometry.dense_stride(spec.size, order) != spec.stride:
        return None
    size = torch.Size([other.get(n, n) for n in spec.size])
    return geometry.intern(size, geometry.dense_stride(size, order), 0, spec.dtype, spec.conj, spec.neg)


def _shown(specs: Any) -> str:
    return ", ".join("none" if s is None else f"{list(s.size)}/{list(s.stride)}" for s in specs)


def main(names: list[str]) -> int:
    with gt.fakes.System(), comparing() as compared:
        for entry in op_db:
            if not names or entry.name in names:
                known = len(compared.wrong)
                told = operators.surprises(operators.check_all([entry], SAMPLES))
                for line in (*told, *sorted({*compared.wrong[known:]})):
                    print(line, flush=True)
    print(f"{sum(compared.calls.values())} calls of {len(compared.calls)} operators compared, {len(compared.wrong)} wrong")
    return 1 if compared.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
