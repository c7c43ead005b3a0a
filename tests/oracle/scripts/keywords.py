"""Keywords of users that have the names of GT's own arguments: of classes, constructors and `forward`."""

import torch
from torch import nn


class Module(nn.Module):
    def __init_subclass__(cls, /, **options):
        cls.options = options


class Net(Module, name="x", bases=1, namespace=2, cls=3, mcls=4, body=5):
    def __init__(self, *, real=None, function=None, args=None, kwargs=None):
        super().__init__()
        self.given = real, function, args, kwargs

    def forward(self, *, input, module, function, args, kwargs, call):
        return input + module + function + args + kwargs + call


class Tensor(torch.Tensor):
    def __init_subclass__(cls, /, **options):
        cls.options = options


class Tagged(Tensor, name="x", bases=1, body=2, mcls=3, cls=4):
    pass


class Loader(torch.utils.data.DataLoader):
    def __init_subclass__(cls, /, **options):
        cls.options = options


class Batches(Loader, name="x", bases=1, body=2):
    pass


net, seen = Net(real=1, function=2, args=3, kwargs=4), []
net.register_forward_pre_hook(lambda module, args, kwargs: seen.append(sorted(kwargs)), with_kwargs=True)
given = {name: torch.ones(2) for name in ("input", "module", "function", "args", "kwargs", "call")}
print(Net.options, Tagged.options, Batches.options, net.given, net(**given), seen)
print(torch.func.functional_call(net, {}, (), given))
