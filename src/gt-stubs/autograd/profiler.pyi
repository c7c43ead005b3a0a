# Written by scripts/stubs.py.
from torch.autograd.profiler import *
