import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

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
