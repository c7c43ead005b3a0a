import torch
from torch import nn

torch.manual_seed(0)
print(nn.ParameterList([torch.ones(2), nn.Parameter(torch.zeros(2, 3)), 3]), nn.ParameterList())
print(nn.ParameterDict({"a": torch.ones(2), "b": nn.Parameter(torch.zeros(2, 3)), "c": "x"}))
x = torch.arange(6.0).reshape(2, 3)
print(x.apply_(lambda v: v * 2) is x, x, x[:, 1].apply_(lambda v: 0), x, x.T.apply_(lambda v: v + 1), x)
print(x.map_(x.clone(), lambda a, b: a + b) is x, x.map_(torch.ones(3), lambda a, b: a - b), x)
print(torch.arange(3).apply_(lambda v: v // 2 + 1), (x > 3).apply_(lambda v: not v))
y = nn.Linear(3, 4)(x)
for width in range(50, 70):
    torch.set_printoptions(linewidth=width)
    print(y, y[0].relu())
for wrong in (lambda: nn.Parameter(torch.ones(2)).apply_(lambda v: 2), lambda: x.apply_(lambda v: "a"), lambda: x.apply_(3)):
    try:
        print(wrong())
    except Exception as error:
        print(type(error).__name__, error)
