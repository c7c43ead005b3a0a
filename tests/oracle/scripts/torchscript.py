import copy
import io

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


@torch.jit.script
def steps(x, n: int):
    for _ in range(n):
        x = x * 2 + torch.zeros_like(x) + torch.ones(4, device=x.device)
    if bool(x.sum() > 0):
        x = -x
    return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(4, 8), nn.Linear(8, 2, bias=False), nn.Dropout(0.5)
        self.register_buffer("scale", torch.ones(2) * 3)

    def forward(self, x):
        return self.b(self.drop(F.gelu(self.a(x)))) * self.scale


x, net = torch.randn(2, 4), Net()
print(steps(x, 2), steps(-x, 3), torch.jit.trace(lambda x: steps(x, 2), x)(x))
scripted, traced = torch.jit.script(net), torch.jit.trace(net.eval(), x)
print(torch.jit.freeze(torch.jit.script(net.eval()))(x))
for made in (scripted, traced, copy.deepcopy(traced)):
    for _ in range(3):
        print(made(x).sum())
    file = io.BytesIO()
    torch.jit.save(made, file)
    file.seek(0)
    print(torch.jit.load(file).eval()(x).detach())
scripted.train()(x).sum().backward()
print([p.grad for p in net.parameters()], scripted.cpu().a.weight.tolist())
torch.jit.save(traced, "traced.pt")
print(torch.jit.load("traced.pt", map_location="cpu")(x).detach())
relu = nn.ReLU()
relu.compile()
net.compile(fullgraph=True)
print(net(x).detach(), relu(x), torch.compile(net)(x).detach(), torch.compile(dynamic=True)(F.gelu)(x))
