# Written by scripts/stubs.py.
from torch.jit import *
