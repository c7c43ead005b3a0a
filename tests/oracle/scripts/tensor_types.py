import copy
import functools
import io
import pickle
import typing

import numpy as np
import torch
from torch import nn


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
print(a.as_subclass(torch.Tensor), type(a.as_subclass(torch.Tensor)) == torch.Tensor, a.as_subclass(cls=Plain).shape)
file = io.BytesIO()
torch.save(a, file)
file.seek(0)
print(torch.load(file, weights_only=False), pickle.loads(pickle.dumps(x)), typing.get_type_hints(Layer.forward))
print([pickle.loads(pickle.dumps(c)) == c for c in (torch.Tensor, torch.LongTensor, nn.ReLU, Layer, Tagged)])
print(torch.FloatTensor, copy.deepcopy(nn.ReLU) == nn.ReLU, torch.Tensor.add(x[0], 1))
for wrong in (
    lambda: setattr(x, "data", 3),
    lambda: delattr(x, "data"),
    lambda: torch.Tensor("a"),
    lambda: torch.Tensor(3.5),
    lambda: torch.LongTensor([1.5, "b"]),
):
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
