from collections import UserDict

import numpy as np
import torch
from torch.utils.data import DataLoader

rows = [(np.full(2, i, dtype=np.float32), i, "name", {"y": float(i)}) for i in range(4)]
for workers in (0, 1):
    for x, i, name, more in DataLoader(rows, 2, num_workers=workers):
        print(x + torch.ones(2), i * torch.ones(2), name, more["y"] + torch.ones(2))
for batch in DataLoader(rows, 2, collate_fn=lambda rows: UserDict(x=torch.from_numpy(rows[0][0]), n=len(rows))):
    print(type(batch).__name__, batch["x"] * torch.ones(2), batch["n"])
print(next(iter(DataLoader(np.ones((4, 2)), 2))) + torch.ones(1))
