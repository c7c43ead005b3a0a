# Written by scripts/stubs.py.
from torch.autograd.function import *
