import torch
from torch.utils.benchmark import Timer

x = torch.ones(3)
seen = []
timer = Timer("seen.append((torch.arange(3) + x).tolist())", setup="torch.manual_seed(3)", globals={"x": x, "seen": seen})
measured = timer.timeit(1)
print(isinstance(timer, Timer), measured.number_per_run, seen[-1], torch.rand(2))
