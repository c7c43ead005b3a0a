"""What is written to a tensor is in the array that shares its memory, and the other way round."""

import numpy as np
import torch


def say(*values):
    print(*(value.tolist() for value in values))


t = torch.ones(3)
n = t.numpy()
t.add_(1)
say(n, t)
np.add(n, 1, out=n)
say(t, n)
t[1:].mul_(2)
say(n[1:], t * 1)
torch.add(t, 1, out=t)
say(n)
t.copy_(torch.tensor([7.0, 8.0, 9.0]))
part = n[1:]
say(part)
del n
part[0] = 5
say(t, t.sum())

a = np.arange(4.0)
s = torch.from_numpy(a)
a[1] = 5
say(s + 0, s.sum())
s[2] = 7
say(a)
again, turned = torch.as_tensor(a), torch.asarray(a[::2])
turned.neg_()
say(s, again, turned, a)
a[0] = 9
say(s[:1], again[:1], turned[:1], np.asarray(s)[:1])

buffer = np.zeros((2, 3), dtype=np.int64)
observed = torch.from_numpy(buffer)
for step in range(3):
    buffer[step % 2] = step
    print(observed.sum().item(), (observed == step).any(1).tolist())
inside = torch.from_numpy(buffer.T[1:])
buffer += 1
say(inside, observed.float().mean())
raw = bytearray(b"abcd")
seen = torch.frombuffer(raw, dtype=torch.uint8)
raw[1:3] = b"yz"
say(seen)
seen[0] = 65
print(raw)

layer = torch.nn.Linear(2, 2)
layer.weight.data.numpy()[:] = 3.0
layer.bias.detach().numpy().fill(0.5)
say(layer(torch.ones(1, 2)))
values = layer.weight.detach().numpy()
optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
say(values, layer.weight)

first, second = torch.zeros(2), torch.zeros(2)
one, other = first.numpy(), first.numpy()
one[0] = 1
say(first + second, other)
other[1] = 2
say(first, one)
one[0], other[1] = 3, 4
say(first, one, other)
square = torch.arange(6.0).reshape(2, 3).t()
turned = square.numpy()
turned[0] = 8
square[2] = float("nan")
say(square, turned)
turned[1, 1] = 9
say(square.sum(1), turned)
kept = first.numpy().copy()
kept[0] = 100
say(first)
apart = torch.tensor(a)
a[0] = -1
say(apart)

values = np.arange(3.0)
read = torch.from_numpy(values)
say(*(read[0] for _ in range(4)))  # one after another, which GT may keep
values[0] = 10
say(read[0], read[0], read)
array = read.numpy()
read[1] += 1
say(read[1], read[1], array)
array[1] = 20
say(read[1], read[1])
norm = torch.nn.BatchNorm1d(2)
mean = norm.running_mean.numpy()
norm(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
say(mean, norm.running_mean)
