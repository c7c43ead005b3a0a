import inspect

import numpy as np
import torch
from torch import nn
from torch.distributions import Beta, Categorical, Independent, LKJCholesky, MixtureSameFamily, Normal, kl_divergence
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler


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
