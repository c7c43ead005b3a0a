import abc
import functools
import inspect
import typing
from unittest import mock

import torch
from torch import nn
from torch.utils import data
from torch.utils.data import DataLoader, RandomSampler


def family(cls):
    return [cls, *(member for below in cls.__subclasses__() for member in family(below))]


def own_inits(classes):
    return [cls for cls in classes if "__init__" in cls.__dict__]


class Loader(DataLoader):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.made = True

    def __len__(self):
        return 2 * super().__len__()


class Pairs(DataLoader[int], abc.ABC):
    pass


class HasLoss(typing.Protocol):
    def loss(self): ...


class Net(nn.Linear, HasLoss):
    pass


class Abstract(nn.Module, abc.ABC):
    @abc.abstractmethod
    def loss(self): ...


class Tagged(torch.Tensor):
    pass


torch.manual_seed(0)
kinds = (DataLoader, RandomSampler, nn.Linear, torch.Tensor, torch.autocast, torch.distributions.Normal)
for kind in kinds:
    print(kind.__mro__, inspect.getmro(kind) == kind.__mro__, kind.__bases__, kind.__base__)
    print(sum(c == kind for c in family(kind)), [c.__name__ for c in family(kind) if c.__module__ == __name__])
for derived in (Loader, Pairs, Net, Tagged):
    print(derived.__mro__, derived.__bases__, derived.__base__)
    print(type(derived)(derived.__name__, derived.__bases__, {"__module__": __name__}).__mro__)
for base in (nn.Linear, type("Layer", (nn.Linear,), {}), DataLoader, Loader):
    print(type("Made", (base,), {}).__mro__)
print(isinstance(Loader([1]), Loader), isinstance(DataLoader([1]), Pairs), issubclass(Pairs, DataLoader), DataLoader[int])

for classes in (family(data.DataLoader), Loader.__mro__, family(data.Sampler), family(nn.Linear), nn.Linear.__mro__):
    patched = [cls for cls in own_inits(classes) if cls is not object]
    for cls in patched:  # as Lightning does it

        @functools.wraps(cls.__init__)
        def init(self, *args, _before=cls.__init__, **kwargs):
            print("made", end=" ")
            _before(self, *args, **kwargs)

        cls.__before = cls.__init__
        cls.__init__ = init
    print(
        len(Loader(range(8), batch_size=4)), len(list(RandomSampler([1]))), len(DataLoader([1])), nn.Linear(1, 1), Net(2, 2)
    )
    for cls in patched:
        cls.__init__ = cls.__before
        del cls.__before
    print(
        len(Loader(range(8), batch_size=4)),
        RandomSampler([1]).num_samples,
        list(DataLoader([1], shuffle=True)),
        nn.Linear(1, 1),
    )

for target, name in (
    (DataLoader, "__init__"),
    (DataLoader, "__iter__"),
    (DataLoader, "__len__"),
    (RandomSampler, "__iter__"),
    (nn.Linear, "forward"),
    (nn.Module, "__call__"),
):
    before = getattr(target, name)
    with mock.patch.object(target, name, autospec=True, side_effect=before) as seen:
        print(
            list(DataLoader([1, 2], sampler=RandomSampler([3, 4]))),
            len(Loader([1])),
            nn.Linear(2, 1)(torch.ones(2)).sum() > 9,
        )
        print(seen.call_count, getattr(target, name) is seen)
    print(getattr(target, name) == before, seen.call_count)
with mock.patch.object(DataLoader, "__len__", return_value=7):
    print(len(DataLoader([1])), len(Loader([1])))
print(len(DataLoader([1])), [list(type(loader)([5])) for loader in (DataLoader([1]), Loader([1]))])
before = DataLoader.__dict__["__iter__"]
del DataLoader.__iter__
DataLoader.__iter__ = before
DataLoader.note = "kept"
print(list(DataLoader([1])), DataLoader([1]).note, Loader([1]).note, data.DataLoader.__dict__["note"])
del DataLoader.note
print(hasattr(Loader([1]), "note"))
try:
    print(Abstract())
except TypeError as error:
    print(error)
match nn.Linear(3, 1):
    case nn.Linear(in_features=3):
        print("matched")
