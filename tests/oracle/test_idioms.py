"""Idioms give bit-equal results on the remote device and on the CPU."""

from __future__ import annotations

import io
import itertools
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

import gt
from tests.oracle.idioms import (  # noqa: F401 - they register their idioms
    IDIOMS,
    autocasts,
    autograd,
    files,
    hooks,
    modules,
    recurrent,
    strides,
    tensors,
)


def local(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", IDIOMS)
def test_an_idiom_gives_the_cpus_results(name: str) -> None:
    expected, got = tree_leaves(IDIOMS[name]("cpu")), tree_leaves(IDIOMS[name]("remote"))
    assert len(expected) == len(got)
    for a, b in zip(map(local, expected), map(local, got), strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(b, a)
        else:
            assert a == b


VARIANTS = [{"foreach": False}, {"foreach": True}, {"fused": True}, {}]
FUSED = ["Adam", "AdamW", "SGD", "Adagrad"]
STEPS = [*itertools.product(FUSED, VARIANTS), *itertools.product(["ASGD", "NAdam", "RAdam"], [{}, {"foreach": True}])]


@pytest.mark.parametrize(("kind", "variant"), STEPS)
def test_optimizers_step_as_on_the_cpu(kind: str, variant: dict[str, bool]) -> None:
    def run(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3).to(device)
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, weight_decay=0.01, **variant)
        x = torch.ones(2, 4, device=device)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).pow(2).sum().backward()
            optimizer.step()
        return [p.detach().cpu() for p in model.parameters()]

    for a, b in zip(run("cpu"), run("remote"), strict=True):
        assert torch.equal(a, b)


def test_mixed_devices_raise_pytorchs_error_with_a_hint() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Expected all tensors to be on the same device.*gt\.nn"):
        torch.nn.Linear(3, 3)(torch.ones(1, 3, device="remote"))


def loaded(device: str) -> Any:
    file = io.BytesIO()
    torch.save(torch.ones(2), file)
    file.seek(0)
    return torch.load(file, map_location=device)


def under(device: str) -> torch.Tensor:
    with torch.device(device):
        return torch.ones(2)


NAMING = {
    **{
        name: partial(getattr(torch, name), 3)
        for name in ("ones", "empty", "arange", "randn", "randperm", "eye", "hann_window")
    },
    "tensor": partial(torch.tensor, [1]),
    "asarray": partial(torch.asarray, [1]),
    "sparse_coo_tensor": partial(torch.sparse_coo_tensor, [[0]], [1.0], (2,)),
    "UntypedStorage": partial(torch.UntypedStorage, 3),
    "Linear": partial(torch.nn.Linear, 2, 2),
    "gt.ones": partial(gt.ones, 2),
    **{
        f"{kind} tensor: {name}": lambda device, kind=kind, use=use: use(torch.ones(2, device=kind), device)
        for kind in ("cpu", "remote")
        for name, use in {
            "to": lambda x, device: x.to(device),
            "to copy": lambda x, device: x.to(torch.float64, copy=True).to(device=device),
            "zeros_like": lambda x, device: torch.zeros_like(x, device=device),
            "new_full": lambda x, device: x.new_full((2,), 1, device=device),
            "new_tensor": lambda x, device: x.new_tensor([1], device=device),
        }.items()
    },
    "module.to": lambda device: torch.nn.Linear(2, 2).to(device),
    "module.to_empty": lambda device: torch.nn.Linear(2, 2).to_empty(device=device),
    "torch.device": lambda device: under(device),
    "load": lambda device: loaded(device),
}


@pytest.mark.parametrize("name", NAMING)
def test_a_device_that_does_not_exist_is_an_error(name: str) -> None:
    use = NAMING[name]
    for device in ("remote:1", torch.device("remote", 7)):
        with pytest.raises(RuntimeError, match=r"remote:\d: invalid device ordinal"):
            use(device=device)
    use(device="remote:0")


def test_what_does_not_travel_is_refused_clearly() -> None:
    x = torch.ones(2, 2, device="remote")
    for make in (
        lambda: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
        lambda: torch.nested.nested_tensor([x, x[:1]]) * 2,
        lambda: x.to_mkldnn(),
        lambda: ForkingPickler.dumps(x),
        lambda: gt.ao.nn.quantized.Linear(2, 2),
    ):
        with pytest.raises(NotImplementedError, match="CPU"):
            make()
    torch.accelerator.synchronize()
