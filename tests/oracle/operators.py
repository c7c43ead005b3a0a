"""Every sample of PyTorch's operator database, on the remote device and on the CPU.

    python -m tests.oracle.operators [--only NAME] [--shard I/N]

An entry passes if every sample gives the CPU's results (and gradients): values, dtypes and shapes, within
`torch.testing`'s tolerances. Every entry passes; none is refused.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_leaves, tree_map

import gt  # noqa: F401 - registers the device

DTYPES = (torch.float32, torch.int64, torch.bool)
oracle = torch.device("cpu")
"""The device on which local PyTorch computes the expected results."""
tolerances: dict[str, float] = {}
"""`rtol` and `atol`; those of `torch.testing` if they are not given."""
UNDEFINED = (
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "resize_as_",
)
"""Entries with uninitialised values: only shapes and dtypes are compared."""


@dataclass
class Outcome:
    """The outcome of one entry in one direction: passed, refused (it raised) or wrong."""

    entry: str
    direction: str
    verdict: str
    reason: str = ""


def name_of(entry: Any) -> str:
    return str(entry.name) + (f".{entry.variant_test_name}" if entry.variant_test_name else "")


def to_remote(value: Any) -> Any:
    """A sample's argument on the remote device, with the same strides and offset."""
    if isinstance(value, torch.Tensor):
        return _tensor_to_remote(value)
    if isinstance(value, torch.device) or value == "cpu":
        return torch.device("remote")
    return value


def _tensor_to_remote(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach()
    if plain.layout is not torch.strided or plain.is_contiguous() or plain.is_conj() or plain.is_neg():
        return plain.to("remote").requires_grad_(tensor.requires_grad)
    extent = 1 + sum((n - 1) * s for n, s in zip(plain.shape, plain.stride(), strict=True)) if plain.numel() else 0
    base = plain.as_strided((int(plain.storage_offset()) + extent,), (1,), 0).to("remote")
    view = base.as_strided(plain.shape, plain.stride(), plain.storage_offset())
    return view.requires_grad_(tensor.requires_grad)


def _copy(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


def _to_oracle(value: Any) -> Any:
    if isinstance(value, torch.device) or value == "cpu":
        return oracle
    copied = _copy(value)
    if not isinstance(value, torch.Tensor) or oracle.type == "cpu":
        return copied
    return copied.detach().to(oracle).requires_grad_(value.requires_grad)


def compare(expected: Any, got: Any, values: bool = True) -> None:
    """Raises AssertionError if results differ."""
    wanted, found = tree_leaves(expected), tree_leaves(got)
    assert len(wanted) == len(found), f"{len(found)} results, expected {len(wanted)}"
    for a, b in zip(wanted, found, strict=True):
        if isinstance(a, torch.Tensor):
            assert isinstance(b, torch.Tensor), f"{type(b)} where a tensor was expected"
            assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{b.dtype}{b.shape}, expected {a.dtype}{a.shape}"
            if values:
                _close(a.detach().cpu(), b.detach().cpu())
        else:
            assert a == b or a != a, f"{b!r}, expected {a!r}"


def _close(expected: torch.Tensor, got: torch.Tensor) -> None:
    if expected.dtype is torch.complex32:
        expected, got = expected.to(torch.complex64), got.to(torch.complex64)
    torch.testing.assert_close(got, expected, equal_nan=True, **tolerances)


def _differentiable(value: Any) -> list[torch.Tensor]:
    return [t for t in tree_leaves(value) if isinstance(t, torch.Tensor) and t.requires_grad]


def check_sample(entry: Any, sample: Any, with_gradients: bool) -> str | None:
    """Compare one sample. Returns the last direction compared, None if the CPU itself raises."""
    arguments = ((sample.input, *sample.args), sample.kwargs)
    local_args, local_kwargs = tree_map(_to_oracle, arguments)
    torch.manual_seed(7)
    try:
        expected = entry(*local_args, **local_kwargs)
    except Exception:
        return None
    remote_args, remote_kwargs = tree_map(to_remote, tree_map(_copy, arguments))
    torch.manual_seed(7)
    got = entry(*remote_args, **remote_kwargs)
    compare(expected, got, values=entry.name not in UNDEFINED)
    if not with_gradients:
        return "forward"
    return _check_gradients(expected, got, (local_args, local_kwargs), (remote_args, remote_kwargs))


class BackwardError(Exception):
    """The gradients could not be computed, or differ."""


def _check_gradients(expected: Any, got: Any, local: Any, remote: Any) -> str:
    outs, ins = _differentiable(expected), _differentiable(local)
    if not outs or not ins:
        return "forward"
    generator = torch.Generator().manual_seed(3)
    grads = [torch.randn(o.shape, dtype=o.dtype, generator=generator) for o in outs]
    try:
        wanted = torch.autograd.grad(outs, ins, [g.to(oracle) for g in grads], allow_unused=True)
    except Exception:
        return "forward"
    try:
        sent = [g.to("remote") for g in grads]
        found = torch.autograd.grad(_differentiable(got), _differentiable(remote), sent, allow_unused=True)
        compare(list(wanted), list(found))
    except Exception as error:
        raise BackwardError(error) from error
    return "backward"


def check_entry(entry: Any, most: int | None = None) -> list[Outcome]:
    """Check the samples of an entry, at most `most` of each dtype; returns one outcome per direction."""
    name, compared = name_of(entry), set()
    for dtype in DTYPES:
        if not entry.supports_dtype(dtype, "cpu"):
            continue
        gradients = dtype is torch.float32 and entry.supports_autograd
        for sample in _drawn(_samples(entry, dtype, gradients), most):
            try:
                compared.add(check_sample(entry, sample, gradients))
            except BackwardError as error:
                return [Outcome(name, "forward", "passed"), _failed(name, "backward", error.args[0])]
            except Exception as error:
                return [_failed(name, "forward", error)]
    forward = [Outcome(name, "forward", "passed")] if compared & {"forward", "backward"} else []
    return [*forward, *([Outcome(name, "backward", "passed")] if "backward" in compared else [])]


def _samples(entry: Any, dtype: torch.dtype, gradients: bool) -> Iterator[Any]:
    try:
        yield from entry.sample_inputs("cpu", dtype, requires_grad=gradients)
    except (RuntimeError, ImportError, NotImplementedError):
        return


def _drawn(samples: Iterator[Any], most: int | None) -> Iterable[Any]:
    if most is None:
        return samples
    every = list(samples)
    return every if len(every) <= most else random.Random(0).sample(every, most)


def _failed(name: str, direction: str, error: Exception) -> Outcome:
    verdict = "wrong" if isinstance(error, AssertionError) else "refused"
    return Outcome(name, direction, verdict, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")


def check_all(entries: Iterable[Any], most: int | None = None) -> list[Outcome]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [outcome for entry in entries for outcome in check_entry(entry, most)]


def surprises(outcomes: list[Outcome]) -> list[str]:
    """The entries that did not pass: wrong values and refusals."""
    return [f"{o.direction} {o.entry}: {o.verdict}: {o.reason}" for o in outcomes if o.verdict != "passed"]


def _count(outcomes: list[Outcome], direction: str) -> str:
    chosen = [o for o in outcomes if o.direction == direction]
    passed = sum(o.verdict == "passed" for o in chosen)
    return f"{direction} {passed}/{len(chosen)} ({passed / max(1, len(chosen)):.2%})"


def _shards(count: int) -> int:
    """Run all shards, each in its own process."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "tests.oracle.operators", "--shard"]
    children = [subprocess.Popen([*command, f"{i}/{count}"], stdout=subprocess.PIPE, text=True) for i in range(count)]
    lines = [line for child in children for line in child.communicate()[0].splitlines()]
    outcomes = [Outcome(*line.split("\t")) for line in lines if line.count("\t") == 3]
    told = surprises(outcomes)
    print(*told, sep="\n")
    print(f"{_count(outcomes, 'forward')}, {_count(outcomes, 'backward')}, in {time.perf_counter() - began:.0f} s")
    print(f"{sum(o.verdict == 'wrong' for o in outcomes)} wrong values, {len(told)} surprises")
    crashed = [c.returncode for c in children if c.returncode]
    if crashed:
        print(f"{len(crashed)} of {count} shards did not end well: {crashed}")
    return 1 if told or crashed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one entry")
    parser.add_argument("--shard", metavar="I/N", help="every N-th entry from the I-th, one line each")
    given = parser.parse_args()
    if not given.only and not given.shard:
        return _shards(2)
    entries = [e for e in op_db if given.only in (None, e.name, name_of(e))]
    if given.shard:
        index, count = map(int, given.shard.split("/"))
        entries = entries[index::count]
    for o in check_all(entries):
        print(o.entry, o.direction, o.verdict, o.reason, sep="\t", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
