# Written by scripts/stubs.py.
from torch.autograd.graph import *
