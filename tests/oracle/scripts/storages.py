import copy
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")
x = torch.arange(6.0).reshape(2, 3)
s = x.untyped_storage()
print(len(s), s.size(), s.nbytes(), s.element_size(), s[0], s[23], s[-1], list(s), s.tolist(), 64 in s, s[4:8].tolist())
print(str(s).splitlines()[:-1], s.new().nbytes(), s.clone().tolist() == s.tolist(), s.cpu().tolist() == s.tolist())
s[0] = 7
s[1:3] = 5
print(x, s.copy_(torch.ones(6).untyped_storage()) is s, x, s.fill_(0) is s, x, s.resize_(32) is s, len(s))
for wrong in (
    lambda: s[32],
    lambda: s[-33],
    lambda: s[::2],
    lambda: s["a"],
    lambda: s.copy_(torch.ones(1).untyped_storage()),
):
    try:
        print(wrong())
    except Exception as error:
        print(type(error).__name__, error)

x = torch.arange(6.0)
t = x.storage()
print(
    len(t), t.size(), t.nbytes(), t[3], t[-1], list(t), t.tolist(), 3.0 in t, t.dtype, t.long().tolist(), t.double().tolist()
)
print(str(t).splitlines()[:-1], copy.deepcopy(t).tolist(), t.clone().tolist(), t.cpu().tolist(), torch.FloatTensor(t))
t[0] = 7
t[1:3] = 9
print(x, t.fill_(3).tolist(), t.copy_(torch.ones(6).storage()).tolist(), x, t.data_ptr() == x.storage().data_ptr())
t.resize_(8)
print(len(t), torch.tensor([]).set_(x.storage(), 1, (2,)))

print(x.is_shared(), nn.Linear(2, 2).weight.is_shared())
