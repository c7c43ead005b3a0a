"""`import gt as torch`: the same file prints the same output, and every name of torch exists."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import pkgutil
import re
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_leaves

import gt
from tests.cluster.conftest import serving
from tests.conftest import ROOT, Run, side_by_side

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))


def ported(source: str) -> str:
    """Port a script as a user would: change the lines that import torch."""
    source = re.sub(r"^import torch$", "import gt as torch", source, flags=re.MULTILINE)
    return re.sub(r"^(import|from) torch(?=[. ])", r"\1 gt", source, flags=re.MULTILINE)


@contextmanager
def forking(folders: pytest.TempPathFactory, **environment: str) -> Iterator[Callable[[str], str]]:
    """Runs a script in a fork of a process that has imported torch, but not GT; returns what it printed."""
    command, pipe = [sys.executable, "-m", "tests.oracle.forks"], subprocess.PIPE
    variables = {**os.environ, **environment}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=variables) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asks, answers = process.stdin, process.stdout

        def run(source: str) -> str:
            script = folders.mktemp("script") / "script0.py"
            script.write_text(source)
            print(script, file=asks, flush=True)
            assert answers.readline() == "0\n", script.with_name("stderr").read_text()
            return script.with_name("stdout").read_text()

        yield run


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[str]]]:
    """Runs a script ported and under local PyTorch; returns what each printed. The ported ones share a service."""
    tmp_path_factory.getbasetemp()  # two threads would make it at once
    with (
        serving() as service,
        forking(tmp_path_factory, GT_ADDRESS=service.address) as remote,
        forking(tmp_path_factory) as local,
    ):
        yield lambda source: side_by_side(partial(remote, ported(source)), partial(local, source))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_same_file_prints_the_same(script: Path, both_ways: Callable[[str], list[str]]) -> None:
    remote, local = both_ways(script.read_text())
    assert remote == local


def test_every_name_of_torch_is_there() -> None:
    missing = [n for n in dir(torch) if not hasattr(gt, n)]
    assert missing == []


def test_no_module_of_gt_hides_a_name_of_torch() -> None:
    own = {m.name for m in pkgutil.iter_modules(gt.__path__)} | {"connect", "disconnect", "scope"}
    assert own & ({*dir(torch)} | {m.name for m in pkgutil.iter_modules(torch.__path__)}) == {"_client"} & {*dir(torch)}


def test_a_module_that_needs_another_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in ("torch.utils.tensorboard", "gt.utils.tensorboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ModuleNotFoundError, match="tensorboard") as caught:
        importlib.import_module("gt.utils.tensorboard")
    assert caught.value.name == "tensorboard"
    with pytest.raises(ModuleNotFoundError, match=r"gt\.utils\.nothing"):
        importlib.import_module("gt.utils.nothing")


def test_torch_itself_is_left_as_it_was() -> None:
    assert torch.randn(3).device.type == "cpu"
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"
    assert gt.randn(3).device.type == "remote"
    assert gt.nn.Linear(2, 2).weight.device.type == "remote"
    assert gt.zeros(2).cpu().device.type == "cpu"
    with torch.device("meta"):
        assert gt.zeros(2).device.type == "meta"
    for made in (torch.nn.Linear(2, 2), torch.distributions.Normal(0.0, 1.0), torch.utils.data.DataLoader([1])):
        assert [name for name in dir(made) if not hasattr(made, name)] == []


LIBRARY = """
import torch

class Model(torch.nn.Linear):
    def to(self, *args, **kwargs):
        return super().to(*args, **kwargs)

    @torch.no_grad()
    def norm(self):
        return self.weight.to("cpu").norm()

class Batch(dict):
    @torch.no_grad()
    def to(self, device, non_blocking=False):
        return Batch({k: v.to(device=device, non_blocking=non_blocking) for k, v in self.items()})

class Graph:
    def __init__(self, edges):
        self.edges = edges
    def apply(self, function):
        return Graph(function(self.edges))
    def to(self, device, *args, **kwargs):
        return self.apply(lambda x: x.to(device, *args, **kwargs))

class Both:
    def __init__(self, model, batch):
        self.model, self.batch = model, batch
    def to(self, *args, **kwargs):
        return Both(self.model.to(*args, **kwargs), self.batch.to(*args, **kwargs))

def saved(value):
    return value.to("cpu")

class Careful:
    def to(self, device):
        return torch.ones(2, device="remote").to("cpu")
"""


def test_a_chain_of_tos_is_one_to() -> None:
    """A library's `to` passes on its device, which the ported file gave it."""
    library, script = ModuleType("library"), {"__name__": "script", "torch": gt}
    exec(LIBRARY, vars(library))

    def places(statement: str) -> set[str]:
        exec(f"result = {statement}", script)
        return {leaf.device.type for leaf in tree_leaves(script["result"])}

    script |= vars(library) | {"torch": gt, "__builtins__": __builtins__}
    for device in ("'cpu'", "torch.device('cpu')", "device='cpu'", "device=torch.device('cpu', 0)"):
        assert places(f"Model(2, 2).to({device}).weight") == {"remote"}, device
        assert places(f"dict(Batch(x=torch.ones(2).cpu()).to({device}))") == {"remote"}, device
        assert places(f"Graph(torch.ones(2).cpu()).to({device}).edges") == {"remote"}, device
        assert places(f"Both(Model(2, 2), Graph(torch.ones(2).cpu())).to({device}).batch.edges") == {"remote"}, device
    assert places("Graph(torch.ones(2).cpu()).to('cpu', torch.float64).edges") == {"remote"}
    assert places("[Model(2, 2).to(torch.float64).weight, Graph(torch.ones(2)).to(torch.ones(2).cpu()).edges]") == {"cpu"}
    assert places("[saved(torch.ones(2)), Model(2, 2).to('cpu').norm(), Careful().to('remote')]") == {"cpu"}
    assert script["saved"](gt.ones(2)).device.type == "cpu"


def test_a_column_of_a_large_array_takes_no_more_memory_than_its_elements() -> None:
    column = gt.from_numpy(np.ones((1000, 600))[:, 3])
    assert (column.stride(), column.untyped_storage().nbytes()) == ((1,), 8000)


def test_annotations_change_nothing() -> None:
    with gt.scope("a"), gt.scope("b"):
        inside = gt.ones(3) * 2
    assert inside.tolist() == [2.0, 2.0, 2.0]
    assert gt.debug.where(inside).workers[0].device == "cpu"


def test_the_tape_says_what_was_recorded_and_by_which_line() -> None:
    product = gt.ones(3) * gt.ones(3)
    *_, waiting = [r for r in gt.debug.tape() if r.op == "aten::mul.Tensor"]
    place = f"{__file__}:{inspect.currentframe().f_lineno - 2}"  # type: ignore[union-attr]
    assert (len(waiting.outs), len(waiting.ins), waiting.line) == (1, 2, place)
    product.tolist()
    *_, made, fetched = [r for r in gt.debug.tape() if r.op in ("aten::mul.Tensor", "Fetch")]
    assert made == waiting
    assert fetched.ins == made.outs


def test_the_lines_of_two_threads_are_told_apart_after_their_backward_passes() -> None:
    inside, left = threading.Event(), threading.Event()

    def wait(_: torch.Tensor) -> None:
        inside.set()
        left.wait(10)

    def first() -> None:
        x = torch.ones(3, device="remote", requires_grad=True)
        x.register_hook(wait)
        (x * x).sum().backward()

    thread = threading.Thread(target=first)
    x = torch.ones(3, device="remote", requires_grad=True)
    x.register_hook(lambda _: left.set() or thread.join(10))
    thread.start()
    assert inside.wait(10)
    (x * x).sum().backward()  # starts while the other runs, and ends after it
    product = gt.ones(3) + gt.ones(3)
    place = f"{__file__}:{inspect.currentframe().f_lineno - 1}"  # type: ignore[union-attr]
    *_, waiting = [r for r in gt.debug.tape() if r.op == "aten::add.Tensor"]
    assert waiting.line == place
    assert product.tolist() == [2.0, 2.0, 2.0]


def test_what_was_saved_is_loaded_where_nobody_knows_of_the_remote_device(run_python: Run, tmp_path: Path) -> None:
    path, names = tmp_path / "model.pt", "torch.load(sys.argv[1], map_location='cpu', mmap=mmap)"
    model = gt.nn.Linear(2, 2)
    gt.save({"model": model.state_dict(), "row": model.weight.detach()[1]}, path)
    source = (
        f"import sys, torch\nfor mmap in (False, True):\n  found = {names}\n  print(found['row'].tolist(), found['model'])"
    )
    run = run_python(source, str(path))
    assert run.returncode == 0, run.stderr
    assert str(model.weight[1].tolist()) in run.stdout
    assert "remote" not in run.stdout


@pytest.mark.parametrize("worker_sees", [True, False])
def test_files_hold_every_dtype_of_the_format(worker_sees: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gt.files, "_workers_see", lambda path: worker_sees)
    raw = torch.arange(128, dtype=torch.uint8)
    of = {name: raw.clone().view(dtype).reshape(-1, 4) for name, dtype in gt.files.DTYPES.items() if dtype is not torch.bool}
    of |= {"BOOL": torch.eye(2) > 0, "number": torch.tensor(3), "conj": torch.tensor([1 + 2j]), "neg": torch.tensor([2.0])}
    save_file(of, tmp_path / "theirs")
    loaded = gt.files.load_safetensors(tmp_path / "theirs")
    assert {t.device.type for t in loaded.values()} == {"remote"}
    loaded["conj"] = torch.tensor([1 - 2j], device="remote").conj()
    loaded["neg"] = torch.tensor([0 - 2j], device="remote").conj().imag
    gt.files.save_safetensors(loaded, tmp_path / "ours")
    for found in (loaded, load_file(tmp_path / "ours"), gt.files.load_safetensors(tmp_path / "ours")):
        for name, expected in of.items():
            assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape), name
            bits = found[name].cpu().resolve_conj().resolve_neg().view(torch.uint8) if expected.dim() else found[name].cpu()
            assert torch.equal(bits, expected.view(torch.uint8) if expected.dim() else expected), name
    header = b'{"six": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}'
    (tmp_path / "newer").write_bytes(len(header).to_bytes(8, "little") + header + bytes(3))
    with pytest.raises(TypeError, match=r"'six' is F6_E2M3, a dtype that PyTorch does not have"):
        gt.files.load_safetensors(tmp_path / "newer")
    with pytest.raises(TypeError, match=r"'wide' is torch.complex128, a dtype that safetensors files do not have"):
        gt.files.save_safetensors({"wide": torch.ones(2, dtype=torch.complex128, device="remote")}, tmp_path / "ours")


PLAIN_LOAD = """
import pickle, sys
import torch
from safetensors.torch import load_file
folder = sys.argv[1]
load = {
    "zip": torch.load,
    "mmap": lambda path: torch.load(path, mmap=True),
    "legacy": torch.load,
    "module": lambda path: torch.load(path, weights_only=False).state_dict(),
    "legacy_module": lambda path: torch.load(path, weights_only=False).state_dict(),
    "pickle": lambda path: pickle.load(open(path, "rb")),
    "safetensors": load_file,
    "script": lambda path: torch.jit.load(path).state_dict(),
    "export.pt2": lambda path: {"y": torch.export.load(path).module()(torch.ones(1, 2)).detach()},
}
for name, how in load.items():
    found = how(f"{folder}/{name}")
    print(name, {key: (value.device.type, value.to_dense().tolist()) for key, value in sorted(found.items())})
"""


def test_what_was_saved_needs_no_device_to_be_named_and_comes_back_to_its_own(run_python: Run, tmp_path: Path) -> None:
    """Plain torch loads the file on the CPU; GT restores remote tensors as remote and local ones as local."""
    model = torch.nn.Linear(2, 2).to("remote")
    weight = model.weight.detach()
    both = {
        "local": torch.arange(3.0), "row": weight[1], "sparse": torch.eye(2, device="remote").to_sparse(),
        "columns": torch.eye(2, device="remote").to_sparse_csc(),
        "twice": torch.arange(3.0)[1:], "weight": weight, "whole": torch.arange(3, device="remote"),
    }  # fmt: skip
    kinds = {name: value.device.type for name, value in both.items()}
    state = {"bias": "remote", "weight": "remote"}
    saved = {
        **dict.fromkeys(("zip", "mmap", "legacy"), both),
        **dict.fromkeys(("module", "legacy_module"), model.state_dict()),
        "pickle": both,
        **dict.fromkeys(("safetensors", "script"), model.state_dict()),
        "export.pt2": {"y": model(torch.ones(1, 2, device="remote")).detach()},
    }
    for name in ("zip", "mmap", "legacy", "module", "legacy_module"):
        what = model if "module" in name else both
        torch.save(what, tmp_path / name, _use_new_zipfile_serialization="legacy" not in name)
    (tmp_path / "pickle").write_bytes(pickle.dumps(both))
    save_file(model.state_dict(), tmp_path / "safetensors")
    torch.jit.save(torch.jit.trace(model, torch.ones(1, 2, device="remote")), tmp_path / "script")
    torch.export.save(torch.export.export(model, (torch.ones(1, 2, device="remote"),)), tmp_path / "export.pt2")

    plain = run_python(PLAIN_LOAD, str(tmp_path))
    on_cpu = {name: {key: ("cpu", t.to_dense().tolist()) for key, t in sorted(v.items())} for name, v in saved.items()}
    assert plain.stdout == "".join(f"{name} {values}\n" for name, values in on_cpu.items()), plain.stderr

    def devices(values: dict[str, torch.Tensor]) -> dict[str, str]:
        return {name: value.device.type for name, value in values.items()}

    assert devices(torch.load(tmp_path / "zip")) == kinds
    assert devices(torch.load(tmp_path / "mmap", mmap=True)) == kinds
    assert devices(torch.load(tmp_path / "legacy")) == kinds
    assert devices(pickle.loads((tmp_path / "pickle").read_bytes())) == kinds
    for name in ("module", "legacy_module"):
        assert devices(torch.load(tmp_path / name, weights_only=False).state_dict()) == state
    ones = torch.ones(1, 2, device="remote")
    assert torch.export.load(tmp_path / "export.pt2").module()(ones).device.type == "remote"
    for name in ("zip", "legacy"):
        assert set(devices(torch.load(tmp_path / name, map_location="cpu")).values()) == {"cpu"}
        assert set(devices(gt.load(tmp_path / name)).values()) == {"remote"}
        swapped = devices(torch.load(tmp_path / name, map_location={"cpu": "remote", "remote:0": "cpu"}))
        assert swapped == {name: {"cpu": "remote", "remote": "cpu"}[kind] for name, kind in kinds.items()}


def test_a_file_that_names_the_remote_device_is_loaded_onto_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Earlier versions of GT wrote such files."""
    named = (1, lambda storage: "remote:0" if storage.device.type == "remote" else None, lambda storage, location: None)
    registry = torch.serialization._package_registry
    with monkeypatch.context() as earlier:
        earlier.setattr(torch.serialization, "_package_registry", [named, *registry])
        for kind in (True, False):
            both = [torch.ones(2, device="remote"), torch.ones(2)]
            torch.save(both, tmp_path / str(kind), _use_new_zipfile_serialization=kind)
    for kind in (True, False):
        assert b"remote:0" in (tmp_path / str(kind)).read_bytes()
        assert [t.device.type for t in torch.load(tmp_path / str(kind))] == ["remote", "cpu"]


def test_abstract_methods_have_an_effect_where_they_have_one_in_torch() -> None:
    """Python asks for them in classes that derive from `ABC` only."""

    class Layer(gt.nn.Module):
        @abstractmethod
        def message(self) -> None: ...

    class Abstract(gt.nn.Module, ABC):
        @abstractmethod
        def message(self) -> None: ...

    class Derived(Abstract, Layer):
        pass

    assert not hasattr(Layer(), "__abstractmethods__")
    for cls in (Abstract, Derived):
        with pytest.raises(TypeError, match="abstract method"):
            cls()
