import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset

torch.manual_seed(0)


class Rows(Dataset):
    def __init__(self):
        self.x, self.parts = torch.randn(6, 2), {"y": [torch.arange(6)]}

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return self.x[i] * 2, self.parts["y"][0][i] + torch.ones(1)


rows = Rows()
for dataset in (rows, ConcatDataset([TensorDataset(torch.rand(3), torch.rand(3)), rows])):
    for x, y in DataLoader(dataset, batch_size=1, shuffle=True, num_workers=2):
        print(x + torch.zeros(1), y)
print(rows.x.sum() + torch.rand(1))
