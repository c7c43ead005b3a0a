"""`import gt as torch`: the same file prints the same, and every name of torch is there."""

from __future__ import annotations

import inspect
import pkgutil
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

import gt
from tests.conftest import Run, side_by_side

SCRIPTS = {
    "basics": """
import IMPORT as torch
torch.manual_seed(0)
x = torch.randn(3, 4)
print(x, x.sum(), x.mean(0), x.T.shape, x[x > 0], (x @ x.T).max().item())
print(torch.arange(5), torch.tensor([1, 2]) / 3, torch.zeros(2, dtype=torch.bool), torch.linspace(0, 1, 3), torch.eye(2))
print(torch.rand(2), torch.randint(0, 10, (3,)), torch.randperm(5), torch.normal(0.0, 1.0, (2,)), x.requires_grad_())
print(torch.stack([x, x]).shape, torch.cat([x, x]).shape, torch.where(x > 0, x, torch.zeros_like(x)), x.numpy if 0 else 0)
""",
    "training": """
import IMPORT as torch
from IMPORT import nn
import IMPORT.nn.functional as F
from IMPORT.utils.data import DataLoader, TensorDataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.2), nn.Linear(16, 2)
    def forward(self, x):
        return self.b(self.drop(F.gelu(self.a(x))))

torch.manual_seed(1)
x, y = torch.randn(64, 8), torch.randint(0, 2, (64,))
net = Net()
print(net, isinstance(net.a, nn.Linear), type(net.a) == nn.Linear)
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
for epoch in range(3):
    for a, b in DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True):
        loss = F.cross_entropy(net(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item(), sum(p.grad.norm().item() for p in net.parameters()))
net.eval()
with torch.no_grad():
    print(net(x[:2]), net.state_dict()["b.bias"])
""",
    "numpy_and_files": """
import IMPORT as torch
import numpy as np
import io
a = np.arange(6, dtype=np.float32).reshape(2, 3)
t = torch.from_numpy(a)
print(t, (t * 2).numpy(), np.asarray(t + 1), torch.as_tensor(a).sum(), torch.tensor(a).dtype, t.tolist())
f = io.BytesIO()
torch.save({"t": t, "n": 3}, f)
f.seek(0)
print(torch.load(f))
""",
    "tensor_types": """
import IMPORT as torch
from IMPORT import nn
import copy, functools, io, pickle, typing
import numpy as np

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.Tensor(2, 3))
        nn.init.ones_(self.weight)
        self.register_buffer("bias", torch.FloatTensor([1, 2]))
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.t() + self.bias + torch.Tensor([5.0])

class Tagged(torch.Tensor):
    @staticmethod
    def __new__(cls, data, tag=None):
        made = super().__new__(cls, data)
        made.tag = tag
        return made
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        made = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(made, Tagged):
            made.tag = "derived"
        return made

class Plain(torch.Tensor):
    def __init__(self, *args):
        self.seen = len(args)

@functools.singledispatch
def kind(x):
    return "other"

@kind.register
def _(x: torch.Tensor):
    return "tensor"

x = torch.ones(4, 3)
print(Layer()(x), torch.Tensor(3, 4).shape, torch.Tensor(), torch.LongTensor(torch.Size([2, 0])).stride())
print(torch.LongTensor([1, 2]), torch.BoolTensor([True]), torch.DoubleTensor(np.arange(3.0)))
print(torch.ByteTensor(torch.ByteTensor([3])))
print([isinstance(t, torch.Tensor) for t in (x, 3, nn.Parameter(x), Tagged([1.0]))], issubclass(nn.Parameter, torch.Tensor))
print(type(x) == torch.Tensor, type(x) in {torch.Tensor}, {type(x): 1}[torch.Tensor], torch.Tensor, kind(x), kind(3))
print(isinstance(x, torch.FloatTensor), isinstance(x, torch.LongTensor), x.type(torch.LongTensor) + x)
a = Tagged([1.0, 2.0], tag="given")
print(a, a.tag, (a * 2).tag, type(a + a), Plain([1.0]).seen, Plain(2, 3).shape, x.as_subclass(Plain).T.shape)
file = io.BytesIO()
torch.save(a, file)
file.seek(0)
print(torch.load(file, weights_only=False), pickle.loads(pickle.dumps(x)), typing.get_type_hints(Layer.forward))
print([pickle.loads(pickle.dumps(c)) == c for c in (torch.Tensor, torch.LongTensor, nn.ReLU, Layer, Tagged)])
print(torch.FloatTensor, copy.deepcopy(nn.ReLU) == nn.ReLU, torch.Tensor.add(x[0], 1))
for wrong in (lambda: torch.Tensor("a"), lambda: torch.Tensor(3.5), lambda: torch.LongTensor([1.5, "b"])):
    try:
        wrong()
    except Exception as error:
        print(type(error), error)
torch.Tensor.doubled = lambda self: self * 2
nn.ReLU.extra_repr = lambda self: "patched"
print(x.doubled().sum(), nn.ReLU())
one = torch.tensor([1, 2])
print(one / 3)
torch.set_default_tensor_type(torch.DoubleTensor)
print(one / 3, torch.Tensor([1]), torch.ones(2))
""",
    "randomness_inside_torch": """
import IMPORT as torch
from IMPORT import nn
from IMPORT.distributions import Beta, Categorical, Independent, LKJCholesky, MixtureSameFamily, Normal, kl_divergence
from IMPORT.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler
import inspect
import threading
import numpy as np

class Squares:
    def __len__(self):
        return 6
    def __getitem__(self, i):
        return torch.ones(2) * i * i, i, torch.rand(1)

if __name__ == "__main__":
    torch.manual_seed(0)
    n = Normal(0.0, 1.0)
    print(n, n.sample((2,)), n.log_prob(torch.ones(2)), Beta(1.0, 2.0).sample())
    print(LKJCholesky(3).sample(), n.expand((2,)).rsample(), Categorical(torch.ones(3)).sample((4,)))
    print(isinstance(n, Normal), type(n) == Normal, kl_divergence(n, Normal(1.0, 2.0)))
    print(MixtureSameFamily(Categorical(torch.ones(2)), Normal(torch.zeros(2), 1.0)).sample())
    print(Independent(n.expand((2,)), 1))
    print(nn.init.sparse_(torch.empty(4, 4), 0.5), nn.utils.skip_init(nn.Linear, 2, 3).weight.shape, torch.rand(2))
    print(inspect.signature(nn.Linear).parameters["bias"])
    print(torch.rand(2, generator=torch.Generator(torch.ones(1).device).manual_seed(3)))
    data = TensorDataset(torch.arange(8.0))
    for loader in (
        DataLoader(Squares(), 2, shuffle=True, num_workers=1, persistent_workers=True),
        DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data, replacement=True, num_samples=4), 2, False)),
        DataLoader(data, sampler=WeightedRandomSampler([1.0] * 8, 3)),
        DataLoader(data, 4, shuffle=True, pin_memory=True),
    ):
        print([list(loader), list(loader)], torch.rand(1))
    print(np.array(torch.ones(2), dtype=np.float64), torch.ones(2).numpy())
    try:
        torch.ones(2, requires_grad=True).numpy()
    except RuntimeError as error:
        print(error)
""",
    "custom_operators": """
import IMPORT as torch

@torch.library.custom_op("gt_test::scaled", mutates_args=())
def scaled(x: torch.Tensor, by: float) -> torch.Tensor:
    return x * by

@torch.library.custom_op("gt_test::shift", mutates_args={"x"})
def shift(x: torch.Tensor) -> None:
    x.add_(1)

scaled.register_fake(lambda x, by: torch.empty_like(x))
def keep(ctx, inputs, output):
    ctx.by = inputs[1]
scaled.register_autograd(lambda ctx, g: (g * ctx.by, None), setup_context=keep)
library = torch.library.Library("gt_test_parts", "DEF")
library.define("squared(Tensor x) -> Tensor")
library.impl("squared", lambda x: x * x, "CompositeImplicitAutograd")

x = torch.arange(3.0, requires_grad=True)
torch.ops.gt_test_parts.squared(scaled(x, 3.0)).sum().backward()
y = torch.zeros(2, 3)
shift(y[1])
print(x.grad, torch.ops.gt_test.scaled(x, 2.0), y)
""",
    "datasets_in_workers": """
import IMPORT as torch
from IMPORT.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset
torch.manual_seed(0)
class Rows(Dataset):
    def __init__(self):
        self.x, self.parts = torch.randn(6, 2), {"y": [torch.arange(6)]}
    def __len__(self):
        return 6
    def __getitem__(self, i):
        return self.x[i] * 2, self.parts["y"][0][i] + torch.ones(1)
rows = Rows()
for dataset in (rows, ConcatDataset([TensorDataset(torch.rand(3), torch.rand(3)), rows])):
    for x, y in DataLoader(dataset, batch_size=1, shuffle=True, num_workers=2):
        print(x + torch.zeros(1), y)
print(rows.x.sum() + torch.rand(1))
""",
    "datasets_of_numpy": """
import numpy as np
import IMPORT as torch
from collections import UserDict
from IMPORT.utils.data import DataLoader
rows = [(np.full(2, i, dtype=np.float32), i, "name", {"y": float(i)}) for i in range(4)]
for workers in (0, 1):
    for x, i, name, more in DataLoader(rows, 2, num_workers=workers):
        print(x + torch.ones(2), i * torch.ones(2), name, more["y"] + torch.ones(2))
for batch in DataLoader(rows, 2, collate_fn=lambda rows: UserDict(x=torch.from_numpy(rows[0][0]), n=len(rows))):
    print(type(batch).__name__, batch["x"] * torch.ones(2), batch["n"])
print(next(iter(DataLoader(np.ones((4, 2)), 2))) + torch.ones(1))
""",
    "samplers": """
import IMPORT as torch
from IMPORT.utils.data import BatchSampler, DataLoader, TensorDataset
from IMPORT.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler
torch.manual_seed(0)
weighted, data = WeightedRandomSampler([0.1, 0.9, 0.3], 5), TensorDataset(torch.arange(6))
print(list(weighted), list(RandomSampler(data)), list(SubsetRandomSampler([0, 2, 4])), torch.rand(1))
print([b.tolist() for (b,) in DataLoader(data, sampler=weighted, batch_size=2)], isinstance(weighted, WeightedRandomSampler))
print([b.tolist() for (b,) in DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 4, False))], torch.rand(1))
print(list(RandomSampler(data, generator=torch.Generator().manual_seed(1))), list(RandomSampler(data)))
""",
    "distributions": """
import IMPORT as torch
import IMPORT.distributions as D
from IMPORT.distributions import Normal, kl_divergence
torch.manual_seed(0)
class Shifted(Normal):
    def __init__(self, loc):
        super().__init__(loc + 1, 2.0)
x = torch.randn(2)
for d in (Normal(0.0, 1.0), D.Bernoulli(0.3), D.Gamma(2.0, 3.0), D.Categorical(logits=x), D.Uniform(-1, 1), Shifted(0.5)):
    print(d, type(d) == Normal, isinstance(d, D.Distribution), d.sample((2,)) + x.abs(), d.entropy())
print(kl_divergence(Normal(0.0, 1.0), Normal(x, 2.0)), D.Independent(Normal(x, 1.0), 1).log_prob(torch.zeros(2)))
print(D.TransformedDistribution(Normal(0.0, 1.0), [D.transforms.AffineTransform(1.0, 2.0)]).rsample((2,)))
""",
    "one_device": """
import IMPORT as torch
import IMPORT.nn as nn
import IMPORT.nn.functional as F
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2, device=device)).to(device)
model.to(device=device, dtype=torch.float64).float()
x = torch.randn(6, 4).to(device)
hidden = torch.zeros(6, 2, device="cpu") + torch.ones_like(x, device=device)[:, :2]
out = model(x) + hidden
print(device, out, out.cpu().detach().numpy(), x.new_zeros(1, device=device) + x.to("cpu", torch.float64).sum())
kind = device.type
for cast in (torch.autocast(kind, torch.bfloat16), torch.amp.autocast("cpu"), torch.autocast(device_type=kind)):
    with cast:
        print(model(x).dtype, torch.is_autocast_enabled("cpu"))
scaler = torch.amp.GradScaler(device.type, init_scale=8.0)
print(scaler.scale(out.sum()), torch.as_tensor(x, device=device).sum(), torch.Generator(device=device).device)
torch.save(model.state_dict(), "model.pt")
print(model.load_state_dict(torch.load("model.pt", map_location=device)), model(x.to(device)).to("cpu").detach().numpy())
torch.set_default_device(device)
print(torch.rand(2) + torch.rand(2, device="cpu"), nn.Linear(1, 1)(torch.ones(1)))
""",
    "files_to_other_places": """
import IMPORT as torch
import io
x = torch.arange(4.0)
seen = set()
for saved in ({}, {"_use_new_zipfile_serialization": False}):
    places = (
        None, "cpu", torch.device("cpu"), {"cuda:0": "cpu"}, {"cpu": "meta"}, lambda storage, location: storage,
        lambda storage, location: seen.add(location), lambda storage, location: storage.cpu(),
    )
    for place in places:
        file = io.BytesIO()
        torch.save({"x": x, "v": x[1:]}, file, **saved)
        file.seek(0)
        found = torch.load(file, map_location=place)
        print(found["x"].shape if found["x"].is_meta else found["x"] + torch.ones(4), found["v"].stride(), seen)
torch.save([x], "x.pt")
print(torch.load("x.pt", mmap=True, map_location="cpu")[0] + x, torch.load("x.pt", map_location=lambda s, l: s)[0] + x)
with torch.device("meta"):
    loaded = torch.load("x.pt")
print(loaded[0] + x)
""",
    "default_generator": """
import IMPORT as torch
g = torch.default_generator
print(g is torch.random.default_generator, g.device, type(g), torch.manual_seed(4) is g, g.initial_seed(), torch.rand(2))
g.manual_seed(5)
state = g.get_state()
a = torch.rand(2), torch.randn(3, generator=g), torch.empty(2).uniform_(generator=g), torch.rand(2)
g.set_state(state)
print(a, torch.rand(2), torch.randn(3), torch.initial_seed(), torch.random.initial_seed())
print(g.seed() == torch.initial_seed() == torch.random.initial_seed(), torch.manual_seed(-1) is g, torch.rand(1))
""",
    "on_one_device": """
import IMPORT as torch
from IMPORT import nn
from IMPORT.optim.swa_utils import AveragedModel, update_bn
torch.manual_seed(0)
x, model = torch.randn(5, 3), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
parallel = nn.DataParallel(model)
parallel(x).pow(3).sum().backward()
print(parallel(x), parallel.device_ids, list(parallel.state_dict()), model[0].weight.grad)
print(nn.DataParallel(model).to("cpu")(x))
for options in ({}, {"use_buffers": True}):
    averaged = AveragedModel(model, **options)
    for _ in range(3):
        model(x)
        averaged.update_parameters(model)
    update_bn([x, x + 1], averaged)
    print(averaged.state_dict(), averaged(x))
""",
    "torchscript": """
import IMPORT as torch
from IMPORT import nn
import IMPORT.nn.functional as F
import copy, io
torch.manual_seed(0)

@torch.jit.script
def steps(x, n: int):
    for i in range(n):
        x = x * 2 + torch.zeros_like(x) + torch.ones(4, device=x.device)
    if bool(x.sum() > 0):
        x = -x
    return x

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(4, 8), nn.Linear(8, 2, bias=False), nn.Dropout(0.5)
        self.register_buffer("scale", torch.ones(2) * 3)
    def forward(self, x):
        return self.b(self.drop(F.gelu(self.a(x)))) * self.scale

x, net = torch.randn(2, 4), Net()
print(steps(x, 2), steps(-x, 3), torch.jit.trace(lambda x: steps(x, 2), x)(x))
scripted, traced = torch.jit.script(net), torch.jit.trace(net.eval(), x)
print(torch.jit.freeze(torch.jit.script(net.eval()))(x))
for made in (scripted, traced, copy.deepcopy(traced)):
    for _ in range(3):
        print(made(x).sum())
    file = io.BytesIO()
    torch.jit.save(made, file)
    file.seek(0)
    print(torch.jit.load(file).eval()(x).detach())
scripted.train()(x).sum().backward()
print([p.grad for p in net.parameters()], scripted.cpu().a.weight.tolist())
torch.jit.save(traced, "traced.pt")
print(torch.jit.load("traced.pt", map_location="cpu")(x).detach())
relu = nn.ReLU()
relu.compile()
net.compile(fullgraph=True)
print(net(x).detach(), relu(x), torch.compile(net)(x).detach(), torch.compile(dynamic=True)(F.gelu)(x))
""",
    "state": """
import IMPORT as torch
torch.manual_seed(3)
state = torch.get_rng_state()
a = torch.rand(2)
torch.set_rng_state(state)
print(a, torch.rand(2), torch.equal(torch.get_rng_state(), state), torch.initial_seed())
g = torch.Generator().manual_seed(5)
print(torch.rand(2, generator=g), torch.rand(2, generator=g), torch.utils.data.random_split(range(6), [4, 2])[0].indices)
with torch.random.fork_rng():
    torch.rand(3)
print(torch.rand(2))
""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_file_prints_the_same(name: str, run_python: Run) -> None:
    sources = [SCRIPTS[name].replace("IMPORT", module) for module in ("gt", "torch")]
    remote, local = side_by_side(*(partial(run_python, source) for source in sources))
    assert local.returncode == 0, local.stderr
    assert remote.stdout == local.stdout, remote.stderr


def test_every_name_of_torch_is_there() -> None:
    missing = [n for n in dir(torch) if not hasattr(gt, n)]
    assert missing == []


def test_no_module_of_gt_hides_a_name_of_torch() -> None:
    own = {m.name for m in pkgutil.iter_modules(gt.__path__)} | {"connect", "disconnect", "scope"}
    assert own & ({*dir(torch)} | {m.name for m in pkgutil.iter_modules(torch.__path__)}) == {"_client"} & {*dir(torch)}


def test_torch_itself_is_left_as_it_was() -> None:
    assert torch.randn(3).device.type == "cpu"
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"
    assert gt.randn(3).device.type == "remote"
    assert gt.nn.Linear(2, 2).weight.device.type == "remote"
    assert gt.zeros(2).cpu().device.type == "cpu"
    with torch.device("meta"):
        assert gt.zeros(2).device.type == "meta"


def test_annotations_change_nothing() -> None:
    with gt.scope("a"), gt.scope("b"):
        inside = gt.ones(3) * 2
    assert inside.tolist() == [2.0, 2.0, 2.0]
    assert gt.debug.where(inside).worker.device == "cpu"


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
    (x * x).sum().backward()  # begins while the other runs, and ends after it
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


LEFT_ALIVE = """
import gt as torch, sys, threading, time, types

class Holds:
    def __init__(self):
        self.tensor, self.me = torch.ones(3), self

def count(x):
    while True:
        x = x + 1

def steps():
    x = torch.ones(3)
    while True:
        yield (x := x + 1)

held, running, sys.kept = Holds(), steps(), torch.ones(2)
sys.modules["users"] = types.ModuleType("users")
sys.modules["users"].tensors = [next(running), Holds()]
leaf = torch.ones(3, requires_grad=True)
leaf.register_hook(lambda g: held.tensor * g)
loss = (torch.nn.LSTM(3, 3)(leaf[None])[0] * leaf).sum()
threading.Thread(target=count, args=(torch.ones(3),), daemon=True).start()
time.sleep(0.2)
"""


def test_nothing_is_said_of_tensors_that_outlive_the_program(run_python: Run) -> None:
    for run in side_by_side(*(partial(run_python, LEFT_ALIVE + end) for end in ("", "sys.exit()"))):
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_destructor_that_computes_when_the_session_has_ended_is_told_so(run_python: Run) -> None:
    run = run_python("import gt as torch\nclass A:\n  x = torch.ones(3)\n  def __del__(self): self.x + 1\na = A()")
    assert run.stderr.splitlines()[0].startswith("Exception ignored in: <function A.__del__")
    assert run.stderr.splitlines()[-1].endswith(
        ": a destructor computes with a remote tensor, and the session ended with the program"
    )


def test_a_first_operation_does_not_import_pytorchs_compiler(run_python: Run) -> None:
    run = run_python(
        "import sys, gt; x = (gt.ones(2) + 1) // 2; print(x.softmax(0).sum().item(), 'torch._dynamo' in sys.modules)"
    )
    assert run.stdout == "1.0 False\n"
