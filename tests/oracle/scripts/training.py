import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.2), nn.Linear(16, 2)

    def forward(self, x):
        return self.b(self.drop(F.gelu(self.a(x))))


torch.manual_seed(1)
x, y = torch.randn(64, 8), torch.randint(0, 2, (64,))
net = Net()
print(net, isinstance(net.a, nn.Linear), type(net.a) == nn.Linear)
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
for epoch in range(3):
    for a, b in DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True):
        loss = F.cross_entropy(net(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item(), sum(p.grad.norm().item() for p in net.parameters()))
net.eval()
with torch.no_grad():
    print(net(x[:2]), net.state_dict()["b.bias"])
