import sys
import warnings
from unittest import mock

import torch
import torch.backends.cudnn
import torch.nn.functional as F
from torch import nn

x = torch.arange(-2.0, 2.0)


def counted(function):
    def call(*args, **kwargs):
        counted.calls.append(function.__name__)
        return function(*args, **kwargs)

    return call


counted.calls = []
before = F.relu, nn.init.kaiming_uniform_, nn.utils.clip_grad_norm_
F.relu, nn.init.kaiming_uniform_, nn.utils.clip_grad_norm_ = map(counted, before)
print(nn.ReLU()(x), nn.Linear(2, 2), nn.utils.clip_grad_norm_([], 1.0), sorted({*counted.calls}))
F.relu, nn.init.kaiming_uniform_, nn.utils.clip_grad_norm_ = before
print(F.relu(x), F.relu is before[0])
for target, name, use in (
    (F, "gelu", nn.GELU()),
    (nn.init, "normal_", lambda _: nn.Embedding(2, 2)),
    (F, "mish", nn.Mish()),
    (nn, "Bilinear", lambda _: nn.Bilinear(1, 1, 1)),
):
    for _ in range(2):
        with mock.patch.object(target, name) as seen:
            use(x)
            print(name, seen.call_count, getattr(target, name) is seen)
        use(x)
        print(seen.call_count, getattr(target, name) is seen, vars(target)[name] == getattr(target, name))
with mock.patch.object(sys.modules["torch.nn.init"], "ones_") as seen:  # as libraries replace it in all modules that have it
    nn.init.ones_(x), nn.LayerNorm(2)
    print(seen.call_count)
nn.init.ones_(x), nn.LayerNorm(2)
print(seen.call_count, x)

F.note = 1
print(F.note, sys.modules["torch.nn.functional"].note, "note" in vars(F))
del F.note
print(hasattr(F, "note"), hasattr(sys.modules["torch.nn.functional"], "note"))
torch.backends.cudnn.benchmark = True
print(torch.backends.cudnn.benchmark, torch._C._get_cudnn_benchmark())
with torch.backends.cudnn.flags(enabled=False, benchmark=False):
    print(torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark)
print(torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark)

print(torch.optim.__dict__["RMSprop"] == torch.optim.RMSprop, nn.__dict__["GELU"]()(x), F.__dict__["softplus"](x))
print(sum(isinstance(value, type) and issubclass(value, nn.Module) for value in vars(nn).values()))
with warnings.catch_warnings(action="error"):
    print(nn.NLLLoss2d, nn.Container)
