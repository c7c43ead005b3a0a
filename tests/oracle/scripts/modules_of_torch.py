import numpy as np
import torch
import torch.multiprocessing.spawn
from torch import nn
from torch.nn.utils import prune
from torch.utils.data.dataloader import DataLoader
from torch.utils.data.dataset import random_split

torch.manual_seed(0)
torch.rand(1)
print([b.tolist() for b in DataLoader(torch.arange(6.0), 2, shuffle=True)], torch.rand(1))
print(random_split(range(5), [2, 3])[0].indices, torch.rand(1))
m = nn.Linear(6, 4)
prune.random_structured(m, "weight", amount=3, dim=1)
print(m.weight_mask[0], torch.rand(1))
x = torch.ones(2)
print(np.exp(x) + x, np.maximum(x, 3) * x, np.float64(1) == x, np.add(torch.arange(3), 1) + torch.arange(3))
for attempt in (
    lambda: torch.tensor([1 + 1j]).conj().numpy(),
    lambda: np.asarray(torch.tensor([1 + 1j]).conj().imag),
    lambda: torch.set_rng_state(torch.zeros(3)),
    lambda: torch.set_rng_state(torch.zeros(3, dtype=torch.uint8)),
):
    try:
        print(attempt())
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0])
print(torch.tensor([1 + 1j]).conj().numpy(force=True))
kept = torch.ones(2).untyped_storage()
print(callable(torch.multiprocessing.spawn), torch.multiprocessing.spawn.__name__)
