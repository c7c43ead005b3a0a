import copy
import inspect
import pickle

import torch
from torch import nn
from torch.nn import init
from torch.overrides import TorchFunctionMode
from torch.utils import data


class Settings:
    make, seed = torch.zeros, torch.manual_seed


def signature(value):
    try:
        return inspect.signature(value)
    except ValueError:
        return "none"


functions = (
    torch.ones,
    torch.from_numpy,
    torch.as_tensor,
    torch.normal,
    torch.zeros_like,
    torch.load,
    torch.compile,
    torch.manual_seed,
    torch.get_rng_state,
    torch.set_default_tensor_type,
    torch.from_dlpack,
    torch.fft.fftfreq,
    torch.signal.windows.hann,
    torch.jit.script,
    init.sparse_,
    data.dataset.random_split,
    nn.utils.skip_init,
)
classes = (
    data.DataLoader,
    data.RandomSampler,
    torch.autocast,
    torch.amp.GradScaler,
    nn.Linear,
    torch.quasirandom.SobolEngine,
)
for named in (*functions, *classes):
    print(named.__name__, named.__module__, named.__qualname__, named.__doc__[:60], repr(named).partition(" at ")[0])
    print(pickle.loads(pickle.dumps(named)) == named, copy.deepcopy(named) == named, copy.copy(named) == named)
    if named is not data.dataset.random_split:  # its signature has the address of a generator
        print(signature(named))
print(Settings().make(2), Settings.seed(3).initial_seed(), {torch.zeros_like: 1}[torch.zeros_like])
print(torch.manual_seed is torch.random.manual_seed, type(torch.manual_seed(0)), torch.rand(1))
x = torch.ones(2)
print(
    isinstance(data.DataLoader([1, 2], shuffle=True).sampler, data.RandomSampler),
    [t.type() for t in (x, x.long(), x.cfloat())],
)
print(x.type("torch.DoubleTensor") + x, x.type(torch.int32), x.type(torch.LongTensor).type(), nn.Linear(1, 1).weight.type())
print(pickle.loads(pickle.dumps(data.RandomSampler([1, 2]))).num_samples, data.DataLoader([1]).__class__)


class Named(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        names.append(function.__name__)
        return function(*args, **(kwargs or {}))


names = []
with Named():
    nn.Linear(2, 1)(torch.ones(2)).sum().backward()
    torch.tensor([1.0]) + torch.zeros(1)
print(names)
