"""Finds operators that leave bytes of their results unwritten, on PyTorch's databases: none that `fills` vouches for.

    python -m tests.oracle.unwritten [--only NAME]

Each operator that a sample reaches, forward and backward, runs twice: on fresh memory full of zeros and on memory full of
junk. Bytes of a result's storage that differ were not written. Workers that have had several sessions zero memory for the
operators that `gt.worker.operators.facts.fills` does not know to write everything.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch.testing._internal import common_methods_invocations as database
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gt.wire import instructions as wire
from gt.worker import zeroing
from gt.worker.operators import facts

DTYPES = (torch.float32, torch.int64, torch.complex64, torch.bool, torch.bfloat16)
SAMPLES = 6
"""Samples per entry and dtype."""
_junk_fill = ctypes.c_bool.in_dll(zeroing._c10, "FLAGS_caffe2_cpu_allocator_do_junk_fill")
aten = torch.ops.aten


@contextmanager
def memory_full_of(junk: bool) -> Iterator[None]:
    """Inside, fresh memory holds zeros, or improbable junk."""
    zeroing._zero_fill.value, _junk_fill.value = not junk, junk
    try:
        yield
    finally:
        zeroing._zero_fill.value = _junk_fill.value = False


def unwritten(call: Callable[[], Any]) -> bool:
    """Whether bytes of a call's results depend on the memory's previous contents."""
    shown = []
    state = torch.get_rng_state()
    for junk in (False, True):
        torch.set_rng_state(state)
        with memory_full_of(junk):
            made = call()
        shown.append([_bytes(t) for t in tree_leaves(made) if isinstance(t, torch.Tensor)])
    return shown[0] != shown[1]


def _bytes(tensor: torch.Tensor) -> bytes:
    """Bytes of the whole storage; a worker copies tensors that cover only a part of theirs."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.untyped_storage().nbytes() > tensor.nbytes:
        tensor = tensor.contiguous().clone()
    storage = tensor.untyped_storage()
    return ctypes.string_at(storage.data_ptr(), storage.nbytes())  # `bytes(storage)` asks for each byte from Python


def fills(name: str) -> bool:
    return facts.fills(wire.Define(0, name, [], {}, [], []))


class Observed(TorchDispatchMode):
    """Runs every operator it sees twice more, and records those that leave bytes unwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.unwritten: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.name(), kwargs or {}
        strided = all(t.layout is torch.strided for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
        if (
            strided
            and name.startswith("aten::")
            and name not in self.unwritten
            and (fills(name) or not func._schema.is_mutable)
        ):
            self.seen.add(name)
            if unwritten(lambda: self._again(func, args, kwargs)):
                self.unwritten.add(name)
        return func(*args, **kwargs)

    def _again(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run it again; returns its results and written operands, copies if it writes its operands."""
        if not func._schema.is_mutable:
            result = func(*args, **kwargs)
            return [t for t in tree_leaves(result) if not isinstance(t, torch.Tensor) or t.layout is torch.strided]
        args, kwargs = tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, (args, kwargs))
        func(*args, **kwargs)
        return args, kwargs


def entries() -> list[Any]:
    return [
        *database.op_db,
        *database.foreach_unary_op_db,
        *database.foreach_binary_op_db,
        *database.foreach_pointwise_op_db,
        *database.foreach_reduce_op_db,
        *database.foreach_other_op_db,
    ]


def look_at(entry: Any, observed: Observed, dtypes: Sequence[torch.dtype], count: int) -> None:
    """Run the first samples of an entry in each dtype, forward and backward; skips those that PyTorch rejects."""
    for dtype in dtypes:
        if not entry.supports_dtype(dtype, "cpu"):
            continue
        gradients = dtype is torch.float32 and entry.supports_autograd
        try:
            samples = list(islice(entry.sample_inputs("cpu", dtype, requires_grad=gradients), count))
        except Exception:
            continue
        for sample in samples:
            try:
                with observed:
                    _run(entry, sample)
            except Exception:
                continue


def _run(entry: Any, sample: Any) -> None:
    out = entry(sample.input, *sample.args, **sample.kwargs)
    outs, ins = _differentiable(out), _differentiable((sample.input, sample.args, sample.kwargs))
    if outs and ins:
        torch.autograd.grad(outs, ins, [torch.ones_like(o) for o in outs], allow_unused=True)


def _differentiable(values: Any) -> list[torch.Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, torch.Tensor) and t.requires_grad]


def wholes() -> list[str]:
    """Composites sent as one instruction that leave bytes of their results or gradients unwritten."""
    nn, x = torch.nn, torch.rand(5, 2, 8)
    modules = [
        *(
            nn.LSTM(8, 8, 2),
            nn.LSTM(8, 8, bidirectional=True),
            nn.GRU(8, 8, 2),
            nn.RNN(8, 8),
            nn.RNN(8, 8, nonlinearity="relu"),
        ),
        *(nn.LSTMCell(8, 8), nn.GRUCell(8, 8), nn.RNNCell(8, 8), nn.RNNCell(8, 8, nonlinearity="relu"), nn.Linear(8, 3)),
    ]
    calls = {repr(m): lambda m=m: m(x[0] if isinstance(m, nn.RNNCellBase) else x) for m in modules}
    q, k, v = torch.rand(3, 2, 4, 5, 8).requires_grad_()
    for options in ({}, {"is_causal": True}, {"attn_mask": torch.rand(5, 5) < 0.9}, {"dropout_p": 0.5}):
        calls[f"attention {options}"] = lambda o=options: nn.functional.scaled_dot_product_attention(q, k, v, **o)
    leaves = [q, *(p for m in modules for p in m.parameters())]
    return [name for name, call in calls.items() if unwritten(call) or unwritten(lambda c=call: _gradients(c, leaves))]


def _gradients(call: Callable[[], Any], leaves: list[torch.Tensor]) -> Any:
    outs = _differentiable(call())
    return torch.autograd.grad(outs, leaves, [torch.ones_like(o) for o in outs], allow_unused=True)


def told(chosen: list[Any]) -> Iterator[Any]:
    """The entries; says now and then how many of them are done."""
    began = time.monotonic()
    for done, entry in enumerate(chosen):
        if done and done % 50 == 0:
            print(f"{done} of {len(chosen)} entries in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        yield entry


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one entry")
    given = parser.parse_args()
    observed = check(told([e for e in entries() if given.only in (None, e.name)]))
    wrong = sorted(filter(fills, observed.unwritten)) + wholes()
    vouched = sum(map(fills, observed.seen))
    print(f"{len(observed.seen)} operators, {vouched} of them said to write every byte: {len(wrong)} do not", *wrong)
    print("filled, and would need it:", *sorted(observed.unwritten))
    return 1 if wrong else 0


def check(chosen: Iterable[Any], dtypes: Sequence[torch.dtype] = DTYPES, samples: int = SAMPLES) -> Observed:
    observed = Observed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in chosen:
            look_at(entry, observed, dtypes, samples)
    return observed


if __name__ == "__main__":
    sys.exit(main())
