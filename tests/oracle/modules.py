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
import contextlib
import copy
import functools
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_optimizers import optim_db
from torch.utils._pytree import tree_leaves, tree_map

import gt  # noqa: F401 - registers the device
from gt.client.stream.definitions import definitions
from tests.oracle.modes import MODES
from tests.oracle.operators import Outcome, compare, to_remote

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


Case = tuple[Any, ...]


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
    with _told("forward", where):
        there = WAYS[way](entry, given.constructor_input, dtype).train(training)
        found = _run(there, *tree_map(_sent, call))
        gradients = found.pop("gradients")
        assert type(there) is type(here)
        compare(expected, found)
    if not any(g is not None for g in wanted):
        return {"forward"}
    with _told("backward", where):
        compare(wanted, gradients())
    return {"forward", "backward"}


class _Failure(Exception):
    def __init__(self, direction: str, where: str, error: Exception) -> None:
        super().__init__(str(error))
        self.direction, self.where, self.error = direction, where, error


@contextlib.contextmanager
def _told(direction: str, where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _Failure(direction, where, error) from error


def _failed(name: str, failure: _Failure) -> Outcome:
    """The outcome of an entry with a failed case."""
    error = failure.error
    verdict = "wrong" if isinstance(error, AssertionError) else "refused"
    reason = f"{failure.where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Outcome(name, failure.direction, verdict, reason)


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
    with _told("inside", where):
        found = _attempt(lambda: MODES[mode](there, remote, tree_map(_sent, others)))
        if not isinstance(expected, Exception):
            _raise_or_compare(expected, found)
    with _told("afterwards", where):
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


# -- optimizers ----------------------------------------------------------------------------------------------------------

STEPS = 5
Parameters = list[torch.Tensor]


def _shapes(entry: Any) -> list[tuple[int, ...]]:
    return [(6, 4), (4, 3)] if entry.name == "Muon" else [(6, 4), (4,), (4, 3), (3,)]


def _parameters(entry: Any, dtype: torch.dtype, device: str) -> Parameters:
    generator = torch.Generator().manual_seed(2)
    made = [torch.randn(shape, dtype=dtype, generator=generator) for shape in _shapes(entry)]
    return [t.to(device).requires_grad_() for t in made]


def _loss(parameters: Parameters) -> torch.Tensor:
    """The loss of a small network whose parameters are matrices, or matrices and biases alternating."""
    generator = torch.Generator().manual_seed(4)
    value = torch.randn(5, 6, dtype=parameters[0].dtype, generator=generator).to(parameters[0].device)
    for p in parameters:
        value = (value @ p).tanh() if p.dim() == 2 else value + p
    return (value - 1).abs().pow(2).mean()


def _train(entry: Any, kwargs: dict[str, Any], dtype: torch.dtype, device: str) -> list[Any]:
    """Parameters and state after some steps with the gradients of a loss."""
    parameters = _parameters(entry, dtype, device)
    optimizer = entry.optim_cls(parameters, **copy.deepcopy(kwargs))
    closure = _closure(optimizer, parameters, _sparse if entry.only_supports_sparse_grads else None)
    losses = [optimizer.step(closure) for _ in range(STEPS)]
    return [losses, parameters, _state(optimizer)]


def _closure(optimizer: Any, parameters: Parameters, convert: Callable[[torch.Tensor], torch.Tensor] | None) -> Any:
    def run() -> torch.Tensor:
        optimizer.zero_grad()
        loss = _loss(parameters)
        loss.backward()
        for p in parameters if convert else []:
            p.grad = convert(p.grad)
        return loss

    return run


def _sparse(gradient: torch.Tensor) -> torch.Tensor:
    """The positive part of a gradient as a sparse tensor, like that of an embedding."""
    return (gradient * (gradient > 0)).to_sparse()


def _state(optimizer: Any) -> list[Any]:
    """The state's values, which must be the same on the CPU and the device, wherever they are stored."""
    return [v.detach().cpu() if isinstance(v, torch.Tensor) else v for v in tree_leaves(optimizer.state_dict()["state"])]


def _differentiate(entry: Any, kwargs: dict[str, Any], dtype: torch.dtype, device: str) -> list[Any]:
    """Differentiable steps: gradients with respect to the initial parameters and to the gradients of the steps."""
    first = _parameters(entry, dtype, device)
    moved_by = [(p.detach() * 0.5 + 0.1).requires_grad_() for p in first]
    parameters = [p.clone() for p in first]
    optimizer = entry.optim_cls(parameters, **copy.deepcopy(kwargs))
    for step in range(3):
        for p, g in zip(parameters, moved_by, strict=True):
            p.grad = g * (1 + step)
        optimizer.step()
    wanted = torch.autograd.grad(_loss(parameters), [*first, *moved_by], allow_unused=True)
    return [parameters, list(wanted)]


def _implementations(entry: Any) -> list[tuple[dict[str, bool], Callable[..., list[Any]]]]:
    """The flags that select each implementation, and the function that runs it."""
    flags = [f for f in entry.supported_impls if f != "fused" or "cpu" in entry.supports_fused_on]
    off = dict.fromkeys(flags, False)
    chosen = [({**off, f: True}, _differentiate if f == "differentiable" else _train) for f in flags]
    return [({}, _train), (off, _train), *chosen] if flags else [({}, _train)]


def _dtypes(entry: Any) -> list[torch.dtype]:
    return [torch.float32, torch.float64, *([torch.complex64] if entry.supports_complex else [])]


def _optimizer_cases(entry: Any) -> list[Case]:
    """(arguments, function, dtype) for every case that the database has for an optimizer."""
    return [
        ({**given.kwargs, **flags}, run, dtype)
        for given in entry.optim_inputs_func("cpu")
        for flags, run in _implementations(entry)
        for dtype in _dtypes(entry)
    ]


def _check_optimizer(entry: Any, kwargs: dict[str, Any], run: Callable[..., list[Any]], dtype: torch.dtype) -> set[str]:
    """Compare one case. Nothing is compared if the CPU raises."""
    try:
        expected = run(entry, _as_on_a_device(entry, kwargs, dtype), dtype, "cpu")
    except Exception:
        return set()
    with _told("steps", f"{kwargs}, {dtype}"):
        compare(expected, run(entry, kwargs, dtype, "remote"))
    return {"steps"}


def _as_on_a_device(entry: Any, kwargs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The arguments for the CPU, so that both use the same implementation. By default PyTorch uses `foreach` on every device
    but the CPU (unless GT uses the loop), and for complex numbers `foreach` and the loop give different results."""
    loops = entry.optim_cls.__name__ in ("ASGD", "NAdam", "RAdam")  # see `modules.looping`
    chooses = dtype.is_complex and "foreach" in entry.supported_impls and "foreach" not in kwargs and not loops
    return {**kwargs, "foreach": True} if chooses else kwargs


# -- all of it -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Database:
    """Its entries, the directions compared, an entry's cases, and the function that compares one case."""

    entries: list[Any]
    directions: tuple[str, ...]
    cases: Callable[[Any], list[Case]]
    check: Callable[..., set[str]]


DATABASES = {
    "modules": Database(module_db, ("forward", "backward"), _module_cases, _check_module),
    "optimizers": Database(optim_db, ("steps",), _optimizer_cases, _check_optimizer),
}


def under(*modes: str) -> Database:
    """The module database under these modes."""
    return Database(module_db, ("inside", "afterwards"), functools.partial(_mode_cases, modes), _check_under_mode)


def check_entry(database: Database, entry: Any, most: int | None = None) -> list[Outcome]:
    """Check all cases of an entry, or a sample of `most` of them; returns one outcome per direction."""
    cases, compared = database.cases(entry), set[str]()
    for case in cases if most is None or len(cases) <= most else random.Random(0).sample(cases, most):
        try:
            compared |= database.check(entry, *case)
        except _Failure as failure:
            before = database.directions[: database.directions.index(failure.direction)]
            return [*(Outcome(entry.name, d, "passed") for d in before), _failed(entry.name, failure)]
    if not compared:
        return [Outcome(entry.name, database.directions[0], "wrong", "nothing was compared: the CPU takes no case")]
    return [Outcome(entry.name, d, "passed") for d in database.directions if d in compared]


def check_all(database: Database, entries: Iterable[Any], most: int | None = None) -> list[Outcome]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [outcome for entry in entries for outcome in check_entry(database, entry, most)]


def surprises(outcomes: list[Outcome]) -> list[str]:
    """Wrong values and refusals."""
    return [f"{o.direction} {o.entry}: {o.verdict}: {o.reason}" for o in outcomes if o.verdict != "passed"]


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
