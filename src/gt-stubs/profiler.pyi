# Written by scripts/stubs.py.
from torch.profiler import *
