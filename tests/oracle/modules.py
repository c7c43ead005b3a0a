"""Every entry of PyTorch's module and optimizer databases, on the remote device and on the CPU.

    python -m tests.oracle.modules [--trace [MODE ...]] [--only NAME] [--cases N]

A module is built twice from one seed, locally and remotely, and once more moved by `.to("remote")`; results, buffers and
gradients (of parameters and inputs) must be the CPU's. An optimizer takes several steps in each of its implementations;
parameters and state must be the CPU's. No entry is refused.

With --trace, each module is run under each of `modes.MODES`; results must be the CPU's, where the CPU supports the mode.
Run eagerly afterwards, results, buffers and gradients must be bit-equal to the CPU's.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.testing._internal.common_modules import module_db
from torch.utils._pytree import tree_leaves, tree_map

import gt  # noqa: F401 - registers the device
from gt.client.stream.definitions import definitions
from tests.oracle.database import Case, Database, check_all, surprises, told
from tests.oracle.modes import MODES
from tests.oracle.operators import compare, to_remote
from tests.oracle.optimizers import OPTIMIZERS

# -- modules -------------------------------------------------------------------------------------------------------------


def _sent(value: Any) -> Any:
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).to("remote")
    return to_remote(_copied(value))


def _copied(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return copy.deepcopy(value)
    return value.detach().clone().requires_grad_(value.requires_grad)


def _build(entry: Any, given: Any, put: Callable[[Any], Any], dtype: torch.dtype, device: str) -> torch.nn.Module:
    """The seeded module of one input; `put` places its constructor's tensors."""
    args, kwargs = tree_map(put, (given.args, given.kwargs))
    torch.manual_seed(11)
    with torch.device(device):
        return entry.module_cls(*args, **kwargs).to(dtype)


WAYS: dict[str, Callable[[Any, Any, torch.dtype], torch.nn.Module]] = {
    "built": lambda entry, given, dtype: _build(entry, given, _sent, dtype, "remote"),
    "moved": lambda entry, given, dtype: _build(entry, given, _copied, dtype, "cpu").to("remote"),
    "copied": lambda entry, given, dtype: copy.deepcopy(_build(entry, given, _sent, dtype, "remote")),
}
"""How a module is put on the device."""


def _run(module: torch.nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """Results of one call, buffers after it, and the gradients, if any."""
    torch.manual_seed(7)
    out = module(*args, **kwargs)
    found = {"out": out, "buffers": dict(module.named_buffers()), "parameters": dict(module.named_parameters())}
    return {**found, "gradients": lambda: _gradients(module, out, (args, kwargs))}


def _gradients(module: torch.nn.Module, out: Any, inputs: Any) -> list[torch.Tensor | None]:
    outs = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.requires_grad]
    ins = [t for t in tree_leaves(inputs) if isinstance(t, torch.Tensor) and t.requires_grad]
    ins += [p for p in module.parameters() if p.requires_grad]
    if not outs or not ins:
        return []
    generator = torch.Generator().manual_seed(3)
    given = [torch.randn(o.shape, dtype=o.dtype, generator=generator).to(o.device) for o in outs]
    return list(torch.autograd.grad(outs, ins, given, allow_unused=True))


def _module_cases(entry: Any) -> list[Case]:
    """(dtype, training, input, way) for every case that the database has for a module."""
    modes = (True, False) if entry.train_and_eval_differ else (True,)
    return [
        (dtype, training, given, way)
        for dtype in entry.dtypes
        for training in modes
        for given in _module_inputs(entry, dtype, training)
        for way in WAYS
    ]


def _module_inputs(entry: Any, dtype: torch.dtype, training: bool) -> list[Any]:
    torch.manual_seed(5)
    return entry.module_inputs_func(entry, device="cpu", dtype=dtype, requires_grad=True, training=training)  # type: ignore[no-any-return]


def _check_module(entry: Any, dtype: torch.dtype, training: bool, given: Any, way: str) -> set[str]:
    """Compare one case. Returns the directions that were compared: none if the CPU raises."""
    call = (given.forward_input.args, given.forward_input.kwargs)
    try:
        here = _build(entry, given.constructor_input, _copied, dtype, "cpu").train(training)
        expected = _run(here, *tree_map(_copied, call))
    except Exception:
        return set()
    try:
        wanted = expected.pop("gradients")()
    except Exception:
        wanted = []
    where = f"{given.desc or 'default'}, {dtype}, training={training}, {way}"
    with told("forward", where):
        there = WAYS[way](entry, given.constructor_input, dtype).train(training)
        found = _run(there, *tree_map(_sent, call))
        gradients = found.pop("gradients")
        assert type(there) is type(here)
        compare(expected, found)
    if not any(g is not None for g in wanted):
        return {"forward"}
    with told("backward", where):
        compare(wanted, gradients())
    return {"forward", "backward"}


# -- modules under modes -------------------------------------------------------------------------------------------------


def _mode_cases(modes: Iterable[str], entry: Any) -> list[Case]:
    return [
        (dtype, training, given, mode)
        for dtype, training, given, way in _module_cases(entry)
        if dtype is torch.float32 and way == "moved"
        for mode in modes
    ]


def _halved(value: Any) -> Any:
    """Other values of the same sizes: a graph with constants instead of operations would return the old results."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    return (value.detach() * 0.5).requires_grad_(value.requires_grad)


def _check_under_mode(entry: Any, dtype: torch.dtype, training: bool, given: Any, mode: str) -> set[str]:
    """Compare one case. Afterwards the module runs eagerly with the same arguments."""
    call = (given.forward_input.args, given.forward_input.kwargs)
    try:
        here = _build(entry, given.constructor_input, _copied, dtype, "cpu").train(training)
        local, others = tree_map(_copied, call), tree_map(_halved, call)
        expected = _attempt(lambda: MODES[mode](here, local, tree_map(_copied, others)))
        eagerly = _run(here, *local)
        wanted = eagerly.pop("gradients")()
    except Exception:
        return set()
    where = f"{given.desc or 'default'}, training={training}, {mode}"
    there = WAYS["moved"](entry, given.constructor_input, dtype).train(training)
    remote = tree_map(_sent, call)
    definitions.forget()  # so that the calls are learnt under the mode
    with told("inside", where):
        found = _attempt(lambda: MODES[mode](there, remote, tree_map(_sent, others)))
        if not isinstance(expected, Exception):
            _raise_or_compare(expected, found)
    with told("afterwards", where):
        found = _run(there, *remote)
        gradients = found.pop("gradients")()
        _identical((eagerly, wanted), (found, gradients))
    return {"inside", "afterwards"}


def _attempt(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:
        return error


def _raise_or_compare(expected: Any, found: Any) -> None:
    if isinstance(found, Exception):
        raise found
    compare(expected, found)


def _identical(expected: Any, got: Any) -> None:
    compare(expected, got)
    for a, b in zip(tree_leaves(expected), tree_leaves(got), strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(b.detach().cpu(), a.detach(), rtol=0, atol=0, equal_nan=True)


# -- all of it -----------------------------------------------------------------------------------------------------------


DATABASES = {
    "modules": Database(module_db, ("forward", "backward"), _module_cases, _check_module),
    "optimizers": OPTIMIZERS,
}


def under(*modes: str) -> Database:
    """The module database under these modes."""
    return Database(module_db, ("inside", "afterwards"), functools.partial(_mode_cases, modes), _check_under_mode)


def _chosen(modes: list[str] | None) -> dict[str, Database]:
    return DATABASES if modes is None else {mode: under(mode) for mode in modes or MODES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one entry")
    parser.add_argument("--trace", nargs="*", choices=list(MODES), help="modules under these modes (default: all)")
    parser.add_argument("--cases", type=int, help="of each entry, drawn at random (default: all)")
    options = parser.parse_args()
    told: list[str] = []
    for name, database in _chosen(options.trace).items():
        began = time.perf_counter()
        outcomes = check_all(database, [e for e in database.entries if options.only in (None, e.name)], options.cases)
        told += surprises(outcomes)
        counts = [[o.verdict for o in outcomes if o.direction == d] for d in database.directions]
        passed = [f"{d} {c.count('passed')}/{len(c)}" for d, c in zip(database.directions, counts, strict=True)]
        print(
            f"{name}: {', '.join(passed)}, of {len(database.entries)} entries, in {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    print(*told, sep="\n")
    print(f"{len(told)} surprises")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
