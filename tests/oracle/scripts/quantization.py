import warnings

import torch
from torch import nn
from torch.ao import quantization
from torch.ao.nn import intrinsic, qat, quantizable
from torch.ao.pruning import WeightNormSparsifier

warnings.simplefilter("ignore")
torch.manual_seed(0)
x, config = torch.randn(2, 3, 4), quantization.get_default_qat_qconfig("fbgemm")
print(quantizable.LSTM(4, 5)(x)[0], torch.nn.quantizable.MultiheadAttention(4, 2)(x, x, x)[0])
print(qat.Linear(4, 5, qconfig=config)(x), qat.Conv1d(3, 5, 2, qconfig=config)(x))
print(intrinsic.LinearReLU(nn.Linear(4, 3), nn.ReLU())(x), intrinsic.qat.ConvBnReLU1d(3, 5, 2, qconfig=config)(x))
for kind in (quantization.MinMaxObserver, quantization.HistogramObserver, quantization.PerChannelMinMaxObserver):
    observer = kind()
    print(torch.equal(observer(x), x), observer.calculate_qparams(), isinstance(observer, kind), issubclass(kind, nn.Module))
print(quantization.FakeQuantize()(x), isinstance(quantization.FakeQuantize(), quantization.FakeQuantizeBase))
model = nn.Sequential(quantization.QuantStub(), nn.Linear(4, 4), nn.ReLU(), quantization.DeQuantStub()).train()
model.qconfig = config
prepared = quantization.prepare_qat(model)
prepared(x).sum().backward()
print(prepared[1].weight.grad, prepared)
sparse = nn.Sequential(nn.Linear(4, 4))
sparsifier = WeightNormSparsifier(sparsity_level=0.5)
sparsifier.prepare(sparse, [{"tensor_fqn": "0.weight"}])
sparsifier.step()
sparsifier.squash_mask()
print(sparse[0].weight)
