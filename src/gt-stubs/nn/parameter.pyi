# Written by scripts/stubs.py.
from torch.nn.parameter import *
