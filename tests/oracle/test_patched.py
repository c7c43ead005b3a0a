"""Tests of patches of PyTorch's Python that no idiom or script covers: see docs/patches.md."""

from __future__ import annotations

import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

import gt
from gt.client.session.random_sequence import sequence
from gt.client.session.session import Session
from gt.errors import RefusedError
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


def test_a_storage_of_the_cpu_is_filled_from_a_remote_one() -> None:
    source = torch.arange(4.0, device="remote").untyped_storage()
    for target in (torch.UntypedStorage(16), torch.UntypedStorage._new_shared(16)):  # type: ignore[no-untyped-call]
        assert target.copy_(source, non_blocking=True) is target
        assert target.tolist() == source.tolist()
    with pytest.raises(RuntimeError, match="size does not match"):
        torch.UntypedStorage(8).copy_(source)


@pytest.mark.parametrize("share", [torch.Tensor.share_memory_, lambda x: x.untyped_storage().share_memory_()])
def test_memory_of_a_worker_is_not_shared_with_other_processes(share: Any) -> None:
    x = torch.ones(2, device="remote")
    with pytest.raises(RefusedError, match=r"\.cpu\(\)"):
        share(x)
    assert not x.is_shared()
    with pytest.raises(RefusedError, match=r"\.cpu\(\)"):
        torch.nn.Linear(2, 2).to("remote").share_memory()


def test_the_library_of_safetensors_reads_files_onto_the_device(tmp_path: Path) -> None:
    tensors = {"one": torch.arange(6.0).reshape(2, 3), "two": torch.tensor(3), "none": torch.zeros(0, 2)}
    path = tmp_path / "file.safetensors"
    save_file(tensors, path, {"made": "here"})
    local = load_file(path)
    for device in ("remote", "remote:0", torch.device("remote"), 0):
        found = load_file(path, device=device)  # type: ignore[arg-type]
        assert {name: (t.device.type, t.dtype, t.tolist()) for name, t in found.items()} == {
            name: ("remote", t.dtype, t.tolist()) for name, t in local.items()
        }
    with safetensors.safe_open(path, framework="pt", device="remote") as file:
        assert isinstance(file, safetensors.safe_open)
        assert (sorted(file.keys()), file.metadata()) == (sorted(tensors), {"made": "here"})
        one, part = file.get_tensor("one"), file.get_slice("one")
        assert (part.get_shape(), part.get_dtype()) == ([2, 3], "F32")
        assert torch.equal(part[1:, ::2], tensors["one"].to("remote")[1:, ::2])
        with pytest.raises(safetensors.SafetensorError, match="missing"):
            file.get_tensor("missing")
    path.unlink()
    assert one.tolist() == tensors["one"].tolist()
    with pytest.raises(FileNotFoundError):
        load_file(path, device="remote")
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        load_file(path, device="remote:1")


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


def test_the_device_is_named_unless_the_program_is_ported(monkeypatch: pytest.MonkeyPatch) -> None:
    x, parameters = torch.ones(2, device="remote"), torch.nn.ParameterList([torch.ones(2)]).to("remote")
    for is_ported, text in ((True, "tensor([1., 1.])"), (False, "tensor([1., 1.], device='remote:0')")):
        monkeypatch.setattr(sequence, "joined", is_ported)
        assert str(x) == text
        assert ("remote:0" in repr(parameters)) is not is_ported


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


def test_a_profiler_counts_the_operators_that_a_cpus_does_each_time() -> None:
    def profiled(device: str) -> list[list[tuple[str, int, int]]]:
        model = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)).to(device)
        found = []
        for _ in range(2):
            with torch.profiler.profile(with_flops=True) as profiler:
                model(torch.ones(4, 8, device=device)).sum().backward()
            found.append(sorted((e.key, e.count, e.flops) for e in profiler.key_averages() if e.key in COUNTED))
        return found

    assert profiled("remote") == profiled("cpu")


COUNTED = {f"aten::{name}" for name in ("linear", "addmm", "mm", "t", "relu", "sum", "threshold_backward", "add_")}


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


LIBRARY = "def save(model, device):\n    return model.to(device)\n\ndef keep(model):\n    return model.cpu()\n"


def test_a_library_that_moves_a_model_back_is_one_warning() -> None:
    program = {"__name__": "program"}
    exec(compile(LIBRARY, "/home/program.py", "exec"), program)
    for package, line in (("mover", 2), ("keeper", 5)):
        library = {"__name__": f"{package}.saving"}
        exec(compile(LIBRARY, f"/venv/lib/site-packages/{package}/saving.py", "exec"), library)
        model = torch.nn.Linear(2, 2)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for names in (program, library, library):
                assert names["save"](model.to("remote"), "remote").weight.device.type == "remote"
                moved = names["keep"](model) if package == "keeper" else names["save"](model, device=torch.device("cpu"))
                assert moved.weight.device.type == "cpu"
        (warning,) = told
        assert str(warning.message).startswith(f"{package} has moved a model from the workers to this process")
        assert (warning.filename, warning.lineno) == (f"/venv/lib/site-packages/{package}/saving.py", line)
