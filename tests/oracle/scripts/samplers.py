import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

torch.manual_seed(0)
weighted, data = WeightedRandomSampler([0.1, 0.9, 0.3], 5), TensorDataset(torch.arange(6))
print(list(weighted), list(RandomSampler(data)), list(SubsetRandomSampler([0, 2, 4])), torch.rand(1))
print([b.tolist() for (b,) in DataLoader(data, sampler=weighted, batch_size=2)], isinstance(weighted, WeightedRandomSampler))
print([b.tolist() for (b,) in DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 4, False))], torch.rand(1))
batches = iter(DataLoader(data, batch_size=4))
print(len(batches), next(batches), len(list(batches)), hasattr(batches, "nothing"))
print(list(RandomSampler(data, generator=torch.Generator().manual_seed(1))), list(RandomSampler(data)))
