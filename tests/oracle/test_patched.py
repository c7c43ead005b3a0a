"""Tests of patches of PyTorch's Python that no idiom or script covers: see docs/patches.md."""

from __future__ import annotations

import pickle
import pickletools

import numpy as np
import pytest
import torch

import gt
from gt.client.session.session import Session
from tests.conftest import Run

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")


def test_an_array_and_its_tensor_share_what_is_written() -> None:
    x = torch.arange(3, device="remote")
    array = x.numpy()
    array += 1
    assert x.tolist() == [1, 2, 3]
    x += 1
    assert array.tolist() == [2, 3, 4]


def test_the_result_of_a_numpy_function_is_where_its_operand_is() -> None:
    made = np.sqrt(torch.ones(3, device="remote"))
    assert isinstance(made, torch.Tensor)
    assert made.device.type == "remote"
    assert made.tolist() == [1, 1, 1]


def test_a_tensor_is_compared_with_an_array() -> None:
    equal = torch.arange(3, device="remote") == np.array([0, 5, 2])
    assert equal.tolist() == [True, False, True]


def test_another_library_takes_over_a_copy() -> None:
    x = torch.arange(3.0, device="remote")
    assert np.from_dlpack(x).tolist() == [0, 1, 2]
    assert x.__dlpack_device__() == torch.empty(0).__dlpack_device__()


def test_dtypes_follow_the_default_dtype_whatever_was_learnt_under_another() -> None:
    x, seen = torch.arange(3, device="remote"), []
    try:
        for dtype in (torch.float32, torch.float64, torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            seen.append({(x / 2).dtype for _ in range(3)})
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == [{torch.float32}, {torch.float64}, {torch.float32}, {torch.float64}]


@pytest.mark.parametrize("kind", [torch.Tensor, torch.nn.Parameter])
def test_a_pickle_names_nothing_of_gt(kind: type[torch.Tensor]) -> None:
    x = torch.ones(3, device="remote").as_subclass(kind) if kind is torch.Tensor else kind(torch.ones(3, device="remote"))
    x + 1  # caches its operand
    named = [argument for _, argument, _ in pickletools.genops(pickle.dumps(x)) if isinstance(argument, str)]
    assert [n for n in named if n == "gt" or n.startswith("gt.")] == []


def test_a_storage_is_made_on_the_device() -> None:
    storage = torch.UntypedStorage(8, device="remote")
    assert (storage.nbytes(), storage.device.type) == (8, "remote")


def test_buffers_of_integers_are_averaged() -> None:
    def averaged(device: str) -> list[torch.Tensor]:
        model = torch.nn.BatchNorm1d(2).to(device)
        average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
        for _ in range(3):
            model(torch.ones(4, 2, device=device))
            average.update_parameters(model)
        return [b.cpu() for b in average.buffers()]

    for expected, got in zip(averaged("cpu"), averaged("remote"), strict=True):
        assert torch.equal(expected, got)


def test_data_parallel_calls_its_module() -> None:
    model = torch.nn.Linear(2, 3).to("remote")
    x = torch.ones(4, 2, device="remote")
    parallel = torch.nn.DataParallel(model)
    assert parallel.device_ids == []
    assert torch.equal(parallel(x).cpu(), model(x).cpu())


def test_linear_cross_entropy_has_the_cpus_precision() -> None:
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        pytest.skip("this torch has no linear_cross_entropy")
    sizes = {"num_batches": 64, "in_features": 32, "num_classes": 1024, "dtype": torch.bfloat16}

    def adjusted(device: str) -> object:
        return torch.nn.LinearCrossEntropyOptions()._adjust(**sizes, device=torch.device(device))

    assert adjusted("remote") == adjusted("cpu")
    assert adjusted("remote") != adjusted("cuda")


def test_a_tensor_is_printed_from_one_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = Session.ask
    monkeypatch.setattr(Session, "ask", lambda self, request: asked.append(request) or ask(self, request))
    repr(torch.arange(12.0, device="remote").view(3, 4))
    assert len(asked) == 1


def test_a_remote_module_is_not_compiled() -> None:
    model = torch.nn.Linear(2, 3).to("remote")
    model.compile()
    assert model._compiled_call_impl is None


COMPILED = """
import gt as torch

class Doubled(torch.nn.Module):
    def forward(self, x):
        return 2 * x

model = Doubled()
model.compile()
print(model._compiled_call_impl)
"""


def test_a_ported_file_compiles_no_module(run_python: Run) -> None:
    assert run_python(COMPILED).stdout == "None\n"


def test_a_method_is_traced_through_a_linear_layer() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(self.linear(leaf).sum(), leaf)[0]

    model = Layer().to("remote").requires_grad_(False)
    x = torch.ones(4, 2, device="remote")
    traced = torch.jit.trace_module(model, {"forward": x}, check_trace=False)
    assert torch.equal(traced(x).cpu(), model(x).cpu())


def test_casts_of_parameters_are_forgotten_with_their_region() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2, device="remote"))
    x = torch.ones(2, 2, device="remote")
    products = []
    for _ in range(2):
        with torch.autocast("remote", torch.bfloat16):
            products.append((x @ weight).sum().item())
        with torch.no_grad():
            weight.mul_(2)
    assert products == [8, 16]


NAMES_THE_CPU = """
import gt as torch

x = torch.ones(2)
print(x.type(), x.new_zeros(2, device="cpu").device)
print(torch.nn.Linear(2, 2, device="meta").to_empty(device="cpu").weight.device)
"""


def test_a_ported_file_names_the_cpu_and_means_the_device(run_python: Run) -> None:
    assert run_python(NAMES_THE_CPU).stdout == "torch.FloatTensor remote:0\nremote:0\n"


def test_a_stand_in_is_not_among_the_subclasses() -> None:
    stand_in = gt.nn.Module
    assert any(c is stand_in for c in type.__subclasses__(torch.nn.Module))
    assert not any(c is stand_in for c in torch.nn.Module.__subclasses__())


@pytest.mark.parametrize("name", ["zeros_like", "ones_like", "empty_like", "rand_like", "randn_like"])
def test_a_tensor_like_a_remote_one_is_made_on_the_device_that_is_named(name: str) -> None:
    x = torch.ones(2, 3, device="remote").t()
    made = getattr(torch, name)(x, device="cpu")
    assert (made.device.type, made.shape, made.stride()) == ("cpu", x.shape, x.stride())
    assert getattr(torch, name)(x).device.type == "remote"


def test_a_new_tensor_of_a_remote_one_is_made_on_the_device_that_is_named() -> None:
    x = torch.ones(2, device="remote")
    made = [x.new_zeros(3, device="cpu"), x.new_full((3,), 2.0, device="cpu"), x.new_empty(3, device="cpu")]
    assert {t.device.type for t in made} == {"cpu"}
    assert made[1].tolist() == [2, 2, 2]
    assert x.new_ones(3).device.type == "remote"
