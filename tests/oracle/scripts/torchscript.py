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


def noise(n: int):
    return torch.randn(n)


@torch.jit.script
def drawn(n: int):
    return torch.rand(n) + noise(n)


class Made(nn.Module):
    def forward(self, x):
        if self.training:
            x = x + torch.randn(3)
        mask = torch.ones(3, 3).triu() > 0
        x = x.masked_fill(~mask, 0.0) + drawn(3) + torch.arange(0, x.size(1), dtype=torch.long, device=x.device)
        return x + torch.tensor(2.0) + torch.zeros([3, 3], dtype=x.dtype).to("cpu")

    @torch.jit.export
    def sample(self, n: int):
        made = torch.normal(0.0, 1.0, [n]) + torch.randint(0, 4, [n]) + torch.linspace(0, 1, n)
        return made + torch.full([n], 3.0, device=torch.device("cpu"))


made, x = torch.jit.script(nn.Sequential(Made(), nn.Linear(3, 3))), torch.ones(3, 3)
print(drawn(3), made(x), made[0].sample(2))
traced = torch.jit.trace(lambda x: x + torch.zeros(3), x)
for scripted in (made, drawn, traced):
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    print(b"remote" in file.getvalue())
    file.seek(0)
    loaded = torch.jit.load(file)
    print(loaded(3) if scripted is drawn else loaded(x), torch.rand(1))
print(made(x))
